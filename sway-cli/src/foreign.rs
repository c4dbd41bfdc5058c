//! Text that somebody else wrote, made safe to look at: what would move the cursor, change colours or
//! turn the order of letters around is shown instead of done.

use std::fmt::Write as _;

use sway_core::foreign::is_invisible;

/// The text with its line ends and tabs, and everything else that does something shown as `\u{…}`.
pub(crate) fn shown(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, letter| {
        match letter {
            '\n' | '\t' => shown.push(letter),
            letter if letter.is_control() || is_invisible(letter) => {
                // Writing to a string does not fail.
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(letter));
            }
            letter => shown.push(letter),
        }
        shown
    })
}

/// The same on one line of at most `max` letters.
pub(crate) fn line(text: &str, max: usize) -> String {
    let text = shown(text).replace(['\n', '\t'], " ");
    match text.char_indices().nth(max) {
        Some(_) => text.chars().take(max - 1).chain(['…']).collect(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_do_something_is_shown() {
        let hostile = "a\u{1b}[2Jb\r\u{7f}\u{9b}31m\u{202e}x\u{200b}\u{0}\tc\nd";
        let expected = "a\\u{1b}[2Jb\\u{d}\\u{7f}\\u{9b}31m\\u{202e}x\\u{200b}\\u{0}\tc\nd";
        assert_eq!(shown(hostile), expected);
        assert_eq!(shown("naïve 🙂 日本"), "naïve 🙂 日本");
        assert_eq!(line("a\nb", 10), "a b");
        assert_eq!(line("abcdef", 4), "abc…");
    }
}
