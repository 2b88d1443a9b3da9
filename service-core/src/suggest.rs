//! Suggests the nearest known name for an unknown one.

/// Returns the known name that is nearest to `name`, if it is near enough for a suggestion.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = name.chars().count();
    let limit = (letters / 3).max(2);
    // At least half of a short name must match.
    let is_near = |far: usize, known: &str| far <= limit && far * 2 <= letters.max(known.chars().count());
    let known = known.into_iter().map(|known| (distance(name, known), known));
    known.filter(|(far, known)| is_near(*far, known)).min().map(|(_, known)| known)
}

/// The end of a sentence about an unknown name: ``, did you mean `near`?`` Empty if no known name is near.
pub(crate) fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, known).map_or_else(String::new, |near| format!(", did you mean `{near}`?"))
}

/// Whether `name` is probably `near` with a typing mistake. A short name is near to many words: `relay` is not a misspelt
/// `delay`.
pub(crate) fn is_probably(name: &str, near: &str) -> bool {
    match distance(name, near) {
        1 => near.len() >= 6,
        2 => near.len() >= 7,
        _ => false,
    }
}

/// Whether `name` is nearly as long as `near` and has most of its letters. A short name is near to many words: `from` is
/// not a misspelt `cron`.
pub(crate) fn is_mostly(name: &str, near: &str) -> bool {
    near.len() >= 6 && distance(name, near) * 4 <= name.len().max(near.len())
}

/// Counts the edits (insert, delete, replace, swap of neighbours) between two names.
pub(crate) fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before_last = vec![0; to.len() + 1];
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, a) in from.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, b) in to.iter().enumerate() {
            let mut least = (last[column] + usize::from(a != b)).min(last[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *a == to[column - 1] && from[row - 1] == *b {
                least = least.min(before_last[column - 1] + 1);
            }
            current.push(least);
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_swapped_letters_are_one_edit() {
        for (from, to, far) in [("corn", "cron", 1), ("intervall", "interval", 1), ("", "abc", 3), ("ab", "ab", 0)] {
            assert_eq!(distance(from, to), far, "{from} {to}");
        }
    }

    #[test]
    fn a_name_that_is_too_different_is_not_suggested() {
        assert_eq!(nearest("max_failure", ["max_failures", "max_restarts"]), Some("max_failures"));
        assert_eq!(nearest("colour", ["interval", "delay"]), None);
        assert_eq!(nearest("d", ["a", "b"]), None);
        assert_eq!(nearest("bb", ["a", "bbb"]), Some("bbb"));
    }
}
