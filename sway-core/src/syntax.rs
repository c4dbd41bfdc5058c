//! What the parts of code are, for those who show it in colours.
//!
//! A reader waits for no colours: files and lines that are too long stay plain, and so does what is
//! left when the caller says that it was enough.

use syntect::easy::ScopeRegionIterator;
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxReference, SyntaxSet};

/// Longer files stay plain.
const CODE_LEN_MAX: usize = 256 << 10;

/// A longer line, and what follows it, stays plain: no more than one line is looked at between two
/// questions whether to go on.
const LINE_LEN_MAX: usize = 4 << 10;

/// What a piece of code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// For readers alone.
    Comment,
    /// A string.
    Text,
    /// A number, or a word that stands for a value.
    Constant,
    /// A word of the language.
    Keyword,
    /// What comes with the language: its functions and types.
    Support,
    /// What gets its name here.
    Name,
}

/// Pieces of one line in their order, all of it but its end. None where there is nothing to tell.
pub type Pieces<'a> = Vec<(Option<Part>, &'a str)>;

/// Knows how code is written in many languages.
#[derive(Debug)]
pub struct Syntaxes {
    all: SyntaxSet,
    scopes: [(Scope, Part); 7],
}

impl Syntaxes {
    /// All that come with the library.
    pub fn load() -> Self {
        let scopes = [
            ("comment", Part::Comment),
            ("string", Part::Text),
            ("constant", Part::Constant),
            ("keyword", Part::Keyword),
            ("storage", Part::Keyword),
            ("support", Part::Support),
            ("entity", Part::Name),
        ];
        let scopes = scopes.map(|(name, part)| (Scope::new(name).expect("a short word"), part));
        Self { all: SyntaxSet::load_defaults_newlines(), scopes }
    }

    /// The lines of a file from its first on, as far as they can be told apart and `go_on` holds. Its
    /// language is known by the file's name, else by the first line.
    pub fn lines<'a>(
        &self,
        path: &str,
        text: &'a str,
        mut go_on: impl FnMut() -> bool,
    ) -> Vec<Pieces<'a>> {
        let syntax = if text.len() > CODE_LEN_MAX { None } else { self.of(path, text) };
        let Some(syntax) = syntax else { return Vec::new() };
        let (mut state, mut stack) = (ParseState::new(syntax), ScopeStack::new());
        let mut lines = Vec::new();
        for line in text.split_inclusive('\n') {
            if line.len() > LINE_LEN_MAX || !go_on() {
                break;
            }
            // What can't be told apart stays as it is.
            let Some(pieces) = self.pieces(line, &mut state, &mut stack) else { break };
            lines.push(pieces);
        }
        lines
    }

    fn of(&self, path: &str, text: &str) -> Option<&SyntaxReference> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let extension = name.rsplit('.').next().unwrap_or(name);
        let first = text.lines().next().unwrap_or_default();
        let by_line = || match first.len() {
            0..=LINE_LEN_MAX => self.all.find_syntax_by_first_line(first),
            _ => None,
        };
        self.all.find_syntax_by_extension(extension).or_else(by_line)
    }

    fn pieces<'a>(
        &self,
        line: &'a str,
        state: &mut ParseState,
        stack: &mut ScopeStack,
    ) -> Option<Pieces<'a>> {
        let steps = state.parse_line(line, &self.all).ok()?;
        let (mut pieces, mut begin, mut end): (Pieces<'a>, usize, usize) = (Vec::new(), 0, 0);
        for (piece, step) in ScopeRegionIterator::new(&steps, line) {
            stack.apply(step).ok()?;
            if piece.is_empty() {
                continue;
            }
            end += piece.len();
            let code = line[begin..end].trim_end_matches('\n');
            let part = if piece.trim().is_empty() { None } else { self.part(stack) };
            match pieces.last_mut() {
                // Neighbours of one kind are one piece.
                Some((last, of_last)) if *last == part => {
                    let start = begin - of_last.len();
                    *of_last = line[start..end].trim_end_matches('\n');
                }
                _ if code.is_empty() => {}
                _ => pieces.push((part, code)),
            }
            begin = end;
        }
        Some(pieces)
    }

    /// What the innermost scope that says anything says.
    fn part(&self, stack: &ScopeStack) -> Option<Part> {
        stack.as_slice().iter().rev().find_map(|scope| {
            let known = self.scopes.iter().find(|(prefix, _)| prefix.is_prefix_of(*scope));
            known.map(|(_, part)| *part)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(lines: &[Pieces<'_>]) -> Vec<String> {
        lines.iter().map(|pieces| pieces.iter().map(|(_, code)| *code).collect()).collect()
    }

    #[test]
    fn code_keeps_its_letters_and_is_told_apart() {
        let syntaxes = Syntaxes::load();
        let python = "# sums\nimport os\n\ndef f(x):\n    return 'ä' + str(1)";
        let lines = syntaxes.lines("lib/app.py", python, || true);
        assert_eq!(joined(&lines), python.lines().collect::<Vec<_>>());
        assert_eq!(lines[0], [(Some(Part::Comment), "# sums")]);
        assert!(lines[1].contains(&(Some(Part::Keyword), "import")), "{:?}", lines[1]);
        assert!(lines[3].contains(&(Some(Part::Name), "f")), "{:?}", lines[3]);
        assert!(lines[4].contains(&(Some(Part::Text), "'ä'")), "{:?}", lines[4]);
        assert!(lines[4].contains(&(Some(Part::Constant), "1")), "{:?}", lines[4]);
        let shell = "#!/bin/sh\nset -e\necho \"$HOME\"\n";
        let lines = syntaxes.lines("run", shell, || true);
        assert_eq!(joined(&lines), ["#!/bin/sh", "set -e", "echo \"$HOME\""], "by its first line");
        assert!(syntaxes.lines("data.unknown", "1,2\n", || true).is_empty());
    }

    #[test]
    fn nobody_waits_for_colours() {
        let syntaxes = Syntaxes::load();
        let mut left = 2;
        let mut once_more = || {
            left -= 1;
            left >= 0
        };
        assert_eq!(syntaxes.lines("a.py", "a\nb\nc\nd\n", &mut once_more).len(), 2);
        let long = format!("a = 1\nb = '{}'\nc = 2\n", "x".repeat(LINE_LEN_MAX));
        assert_eq!(syntaxes.lines("a.py", &long, || true).len(), 1);
        let longer = "a = 1\n".repeat(CODE_LEN_MAX / 6 + 1);
        assert!(syntaxes.lines("a.py", &longer, || true).is_empty());
        // A quote that is never closed, and brackets without end.
        let hostile = format!("x = '''{}\n{}\n", "((((".repeat(500), "[{(".repeat(1000));
        assert_eq!(joined(&syntaxes.lines("a.py", &hostile, || true)).len(), 2);
    }
}
