//! What strangers wrote, as text that a page can show: nothing of it is markup, moves the cursor,
//! changes colours, or turns the direction of what stands beside it.
//!
//! `assets/output.js` shows live output by the same rules.

use std::borrow::Cow;

use maud::{Markup, html};
use sway_core::foreign::is_invisible;

/// A name within a line: whole, and apart from its neighbours where it is written from right to
/// left.
pub(super) fn name(text: &str) -> Markup {
    html! { bdi { (plain(text)) } }
}

/// One line without control characters: each is shown by its symbol or number.
pub(super) fn plain(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() || turns_direction(c)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| push(&mut shown, c));
    Cow::Owned(shown)
}

/// A name or a line that is read before something is allowed: nothing in it is unseen.
pub(super) fn exact(text: &str) -> Markup {
    html! { bdi { (code(text)) } }
}

/// A line of code with all that is in it, as `sway review` shows it: letters that are not seen and
/// characters that do something stand as `\u{…}`, tabs as they are.
pub(super) fn code(line: &str) -> Cow<'_, str> {
    let acts = |c: char| c != '\t' && (c.is_control() || is_invisible(c));
    if !line.chars().any(acts) {
        return Cow::Borrowed(line);
    }
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        match acts(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Lines of output. Colours of a terminal are left out; a carriage return ends a line.
pub(super) fn output(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match after_colours(rest.as_str()) {
                Some(after) => rest = after.chars(),
                None => push(&mut shown, c),
            },
            '\r' if rest.as_str().starts_with('\n') => {}
            '\r' => shown.push('\n'),
            '\n' | '\t' => shown.push(c),
            c => push(&mut shown, c),
        }
    }
    shown
}

/// What follows `[`, numbers and `m`: select graphic rendition (ECMA-48, 8.3.117).
fn after_colours(text: &str) -> Option<&str> {
    let parameters = text.strip_prefix('[')?;
    let end = parameters.find(|c: char| !(c.is_ascii_digit() || c == ';' || c == ':'))?;
    parameters[end..].strip_prefix('m')
}

fn push(shown: &mut String, c: char) {
    match c {
        // Unicode has a symbol for each of these.
        '\0'..' ' => shown.push(char::from_u32(0x2400 + u32::from(c)).unwrap_or('\u{fffd}')),
        '\u{7f}' => shown.push('\u{2421}'),
        c if c.is_control() || turns_direction(c) => shown.extend(c.escape_unicode()),
        c => shown.push(c),
    }
}

/// Embeddings, overrides and isolates: they act beyond the text that they are in.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reviewer_sees_every_letter_of_a_line() {
        let hostile = "x = 1\t# \u{200b}\u{202e}safe\r\u{1b}[2J<b>";
        assert_eq!(code(hostile), "x = 1\t# \\u{200b}\\u{202e}safe\\u{d}\\u{1b}[2J<b>");
        assert_eq!(exact("<b>\u{feff}").into_string(), "<bdi>&lt;b&gt;\\u{feff}</bdi>");
        assert!(matches!(code("naïve 日本 🙂"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_strangers_wrote_is_text_and_not_markup() {
        let hostile = name("<script>\"&\0\u{202e}").into_string();
        assert_eq!(hostile, "<bdi>&lt;script&gt;&quot;&amp;\u{2400}\\u{202e}</bdi>");
        assert_eq!(plain("main.py ü"), "main.py ü");
        assert_eq!(plain("a\nb\u{85}"), "a\u{240a}b\\u{85}");
    }

    #[test]
    fn output_shows_control_characters_and_carries_none_out() {
        for (written, shown) in [
            ("plain\ttext\n", "plain\ttext\n"),
            ("\u{1b}[1;31mred\u{1b}[0m", "red"),
            ("\u{1b}[2Jgone", "\u{241b}[2Jgone"),
            ("\u{1b}]0;title\u{7}", "\u{241b}]0;title\u{2407}"),
            ("10%\r20%\r\n", "10%\n20%\n"),
            ("\u{1b}[31", "\u{241b}[31"),
            ("abc\u{202e}fdp.exe\u{9b}", "abc\\u{202e}fdp.exe\\u{9b}"),
        ] {
            assert_eq!(output(written), shown);
        }
    }
}
