//! Names: a type's id, what an id may look like, and which known word a misspelt one is nearest to.

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

/// What is wrong with a service id, in words that follow "the id `…`".
pub(crate) fn id_problem(id: &str) -> Option<&'static str> {
    let mut letters = id.chars();
    if id.is_empty() {
        Some("is empty")
    } else if id == "defaults" {
        Some("is taken: `[defaults]` holds the settings of all services")
    } else if !letters.next().is_some_and(|first| first.is_ascii_lowercase()) {
        Some("has to start with a lower-case letter, a to z")
    } else if !letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        Some("may only have lower-case letters, digits and `_`")
    } else if id.contains("__") {
        Some("may not have `__`, which separates id and key in environment variables")
    } else {
        None
    }
}

/// An id near to what was written, if any letter of it can be kept.
pub(crate) fn proposed_id(written: &str) -> Option<String> {
    let kept: String = written
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .skip_while(|c| !c.is_ascii_alphabetic())
        .collect();
    let id = snake_case(&kept);
    id_problem(&id).is_none().then_some(id)
}

/// The candidate nearest to `word`, if it is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters have to be put in, left out, replaced or swapped with their neighbour.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.to_lowercase().chars().collect(), b.to_lowercase().chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
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
    fn a_swap_is_one_step() {
        assert_eq!(distance("updaet", "update"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("intervall", ["interval", "initial_delay"]), Some("interval"));
        assert_eq!(nearest("colour", ["interval", "initial_delay"]), None);
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
