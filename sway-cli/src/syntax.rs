//! Colours for code, in the terminal's own sixteen, so that they can be read on any background.

use std::time::{Duration, Instant};

use owo_colors::OwoColorize as _;
use sway_core::syntax::{Part, Syntaxes};

/// How long a file is looked at before the rest of it stays plain.
const DEADLINE: Duration = Duration::from_secs(2);

/// The same text with colours.
pub(crate) fn coloured(syntaxes: &Syntaxes, path: &str, text: &str) -> String {
    let begun = Instant::now();
    let mut known = syntaxes.lines(path, text, || begun.elapsed() < DEADLINE).into_iter();
    let mut coloured = String::with_capacity(text.len() * 2);
    for line in text.split_inclusive('\n') {
        let Some(pieces) = known.next() else {
            coloured.push_str(line);
            continue;
        };
        pieces.into_iter().for_each(|(part, code)| coloured.push_str(&painted(part, code)));
        // No colour goes over the end of a line.
        coloured.push_str(&line[line.trim_end_matches('\n').len()..]);
    }
    coloured
}

fn painted(part: Option<Part>, code: &str) -> String {
    match part {
        Some(Part::Comment) => code.dimmed().to_string(),
        Some(Part::Text) => code.green().to_string(),
        Some(Part::Constant) => code.cyan().to_string(),
        Some(Part::Keyword) => code.magenta().to_string(),
        Some(Part::Support) => code.blue().to_string(),
        Some(Part::Name) => code.yellow().to_string(),
        None => code.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_keeps_its_letters_and_gets_colours() {
        let syntaxes = Syntaxes::load();
        let python = "# sums\nimport os\ndef f(x):\n    return 'a' + str(1)\n";
        let with_colours = coloured(&syntaxes, "lib/app.py", python);
        assert_eq!(anstream::adapter::strip_str(&with_colours).to_string(), python);
        assert!(with_colours.lines().all(|line| line.contains('\u{1b}')), "{with_colours:?}");
        assert_eq!(coloured(&syntaxes, "data.unknown", "1,2\n"), "1,2\n");
    }
}
