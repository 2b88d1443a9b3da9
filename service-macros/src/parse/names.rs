//! Names: the id of a type, the form of an id, and the type of a function's service.

use syn::{Error, LitStr};

/// `HTTPClient` becomes `http_client`; a raw identifier loses its `r#`.
pub(crate) fn snake_case(name: &str) -> String {
    let letters: Vec<char> = name.trim_start_matches("r#").chars().collect();
    let mut snake = String::with_capacity(letters.len() + 4);
    for (at, &letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let starts_word = letter.is_uppercase()
            && before.is_some_and(|before| {
                let last_of_acronym = letters.get(at + 1).is_some_and(|next| next.is_lowercase());
                !before.is_uppercase() || last_of_acronym
            });
        if (starts_word || letter == '_') && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        if letter != '_' {
            snake.extend(letter.to_lowercase());
        }
    }
    snake.truncate(snake.trim_end_matches('_').len());
    snake
}

/// `clean_inbox` becomes `CleanInbox`; a raw identifier loses its `r#`.
pub(crate) fn camel_case(name: &str) -> String {
    let words = name.trim_start_matches("r#").split('_');
    words
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>()).unwrap_or_default()
        })
        .collect()
}

/// The type of a function's service: `CleanInboxService` for `clean_inbox`.
pub(crate) fn function_type(function: &str) -> String {
    let name = camel_case(function);
    // `_3d_render` is a function, and `3dRenderService` no name.
    let mark = if name.starts_with(|first: char| first.is_ascii_digit()) { "_" } else { "" };
    format!("{mark}{name}Service")
}

/// Whether a topic or a probe may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/');
    (1..=100).contains(&name.len()) && name.chars().all(allowed)
}

/// What is wrong with a service id.
pub(crate) fn id_problem(id: &str) -> Option<&'static str> {
    let mut letters = id.chars();
    if id.is_empty() {
        Some("an id cannot be empty")
    } else if id == "defaults" {
        Some("`[defaults]` is the section with the values for all services")
    } else if !letters.next().is_some_and(|first| first.is_ascii_lowercase()) {
        Some("an id starts with a lower-case letter (a to z)")
    } else if !letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        Some("an id contains only lower-case letters (a to z), digits and `_`")
    } else if id.contains("__") {
        Some("an id cannot contain `__`, which separates id and key in environment variables")
    } else {
        None
    }
}

/// Checks an id that is written in quotes.
pub(crate) fn check_id(text: &LitStr) -> Result<(), Error> {
    let id = text.value();
    let Some(problem) = id_problem(&id) else { return Ok(()) };
    let proposal = match proposed_id(&id) {
        Some(proposal) => format!(": write `\"{proposal}\"`"),
        None => String::new(),
    };
    Err(Error::new(text.span(), format!("this service id is not valid: {problem}{proposal}")))
}

/// A valid id that is similar to what was written, if there is one.
fn proposed_id(written: &str) -> Option<String> {
    let kept: String = written
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .skip_while(|c| !c.is_ascii_alphabetic())
        .collect();
    let id = snake_case(&kept);
    id_problem(&id).is_none().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_become_ids() {
        for (name, id) in [
            ("EmailSender", "email_sender"),
            ("HTTPClient", "http_client"),
            ("HTTP", "http"),
            ("S3Upload", "s3_upload"),
            ("r#loop", "loop"),
            ("already_snake", "already_snake"),
            ("_Private", "private"),
            ("Two__Lines", "two_lines"),
        ] {
            assert_eq!(snake_case(name), id);
        }
    }

    #[test]
    fn functions_have_types() {
        for (name, ty) in [
            ("clean_outbox", "CleanOutboxService"),
            ("tick", "TickService"),
            ("r#loop", "LoopService"),
            ("_http2_client", "Http2ClientService"),
            ("step_2_of_3", "Step2Of3Service"),
            ("cleanOutbox", "CleanOutboxService"),
            ("TICK", "TICKService"),
            ("_3d_render", "_3dRenderService"),
        ] {
            assert_eq!(function_type(name), ty);
        }
    }

    #[test]
    fn ids_are_checked() {
        assert_eq!(id_problem("email_sender2"), None);
        for bad in ["", "defaults", "Email", "2nd", "_a", "a-b", "a__b", "größe"] {
            assert!(id_problem(bad).is_some(), "{bad}");
        }
        assert_eq!(proposed_id("Email-Sender"), Some("email_sender".to_owned()));
        assert_eq!(proposed_id("ö"), None);
    }
}
