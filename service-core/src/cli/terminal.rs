//! [`Terminal`]: how wide the output may be, and whether it may have colours.

use std::io::{self, ErrorKind, IsTerminal, Write};

use anstyle::AnsiColor;
use comfy_table::{ContentArrangement, Table, presets};

use crate::observe::health::HealthStatus;

/// The narrowest width that tables are fitted to.
const NARROWEST: u16 = 20;

/// Where the output goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// In columns; `None` is unlimited.
    pub(crate) width: Option<u16>,
    pub(crate) colour: bool,
}

impl Terminal {
    /// Returns what standard output is: a terminal, or a file or pipe, which has neither a width nor colours.
    pub(crate) fn of_stdout() -> Self {
        let is_terminal = io::stdout().is_terminal();
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.trim().parse().ok());
        let width = columns.or_else(|| {
            let size = if is_terminal { terminal_size::terminal_size() } else { None };
            size.map(|(width, _)| width.0)
        });
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let colour = is_terminal && !is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { width: width.filter(|width| *width > 0).map(|width| width.max(NARROWEST)), colour }
    }

    /// Whether the output is at least this wide.
    pub(crate) fn has_columns(self, columns: u16) -> bool {
        self.width.is_none_or(|width| width >= columns)
    }

    /// Returns the text in the colour of the status. The text says the same without it.
    pub(crate) fn paint(self, status: HealthStatus, text: &str) -> String {
        let colour = match status {
            HealthStatus::Healthy => AnsiColor::Green,
            HealthStatus::Degraded => AnsiColor::Yellow,
            HealthStatus::Unhealthy => AnsiColor::Red,
        };
        let style = if self.colour { colour.on_default().bold() } else { anstyle::Style::new() };
        format!("{style}{text}{style:#}")
    }

    /// Returns a table without lines that fits the width: long cells are wrapped. It ends with a line end, and is empty
    /// without rows.
    pub(crate) fn table<const N: usize>(
        self,
        indent: u16,
        header: Option<[&str; N]>,
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.add_rows(rows.into_iter().map(|row| row.map(|cell| clean(&cell))));
        if table.is_empty() {
            return String::new();
        }
        if let Some(header) = header {
            table.set_header(header);
        }
        for (n, column) in table.column_iter_mut().enumerate() {
            column.set_padding((if n == 0 { indent } else { 0 }, if n + 1 == N { 0 } else { 2 }));
        }
        table.trim_fmt() + "\n"
    }

    /// Returns a text that is wrapped and indented.
    pub(crate) fn paragraph(self, indent: u16, text: &str) -> String {
        self.table(indent, None, [[text.to_owned()]])
    }
}

/// Replaces characters that control the terminal. The text of an error may contain some.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{FFFD}' } else { c }).collect()
}

/// Escapes characters that control the terminal in JSON, where they are only in texts. The serializer escapes those
/// below U+0020.
pub(crate) fn clean_json(json: &str) -> String {
    let mut cleaned = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_control() && c != '\n' {
            true => cleaned += &format!("\\u{:04x}", u32::from(c)),
            false => cleaned.push(c),
        }
    }
    cleaned
}

/// Writes to standard output. It is no error if the reader has closed the pipe (`services status | head`).
///
/// # Errors
/// The output cannot be written, for example because the disk is full.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Writes an error to standard error.
///
/// # Errors
/// Standard error is closed.
pub(crate) fn complain(why: &str) -> io::Result<()> {
    writeln!(io::stderr(), "error: {}", clean(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [[String; 2]; 1] {
        [["mailer".to_owned(), "cannot send a mail to ann@example.org: \u{1b}[2J\nthe server is down".to_owned()]]
    }

    #[test]
    fn a_table_fits_the_width_and_keeps_every_word() {
        for width in [20, 40, 80] {
            let terminal = Terminal { width: Some(width), colour: true };
            let table = terminal.table(2, Some(["SERVICE", "WHY"]), rows());
            for line in table.lines() {
                assert!(line.chars().count() <= usize::from(width), "{width}: {table}");
            }
            assert!(!table.contains('\u{1b}'), "{table}");
            let words = table.split_whitespace().collect::<Vec<_>>().concat();
            assert!(words.contains("mailer") && words.contains("WHY"), "{table}");
        }
        let unlimited = Terminal { width: None, colour: false }.table(0, None, rows());
        assert_eq!(
            unlimited,
            "mailer  cannot send a mail to ann@example.org: \u{FFFD}[2J\n        the server is down\n"
        );
    }

    #[test]
    fn json_keeps_its_texts_without_characters_that_control_the_terminal() {
        let texts = ["a\u{1b}[2J\n", "\u{9b}2J\u{7f}", "größer"];
        let cleaned = clean_json(&serde_json::to_string_pretty(&texts).unwrap());
        assert!(cleaned.chars().all(|c| !c.is_control() || c == '\n'), "{cleaned:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&cleaned).unwrap(), texts);
    }

    #[test]
    fn without_colours_the_text_is_plain() {
        let plain = Terminal { width: None, colour: false };
        assert_eq!(plain.paint(HealthStatus::Unhealthy, "✖ mailer"), "✖ mailer");
        let coloured = Terminal { width: None, colour: true }.paint(HealthStatus::Unhealthy, "✖ mailer");
        assert!(coloured.contains("\u{1b}[31m") && coloured.ends_with("✖ mailer\u{1b}[0m"), "{coloured:?}");
    }
}
