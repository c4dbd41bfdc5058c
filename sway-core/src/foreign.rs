//! Text that somebody else wrote, for those who show it to a reader who decides by it.

/// Whether a letter is not seen, or has those around it seen in another order: what a reviewer would
/// not notice. Control characters are not among them ([`char::is_control`]).
pub fn is_invisible(letter: char) -> bool {
    matches!(letter,
        '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}
