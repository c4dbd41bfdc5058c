//! Colours for code, in the terminal's own sixteen, so that they can be read on any background.

use owo_colors::OwoColorize as _;
use syntect::easy::ScopeRegionIterator;
use syntect::parsing::{ParseState, Scope, ScopeStack, SyntaxReference, SyntaxSet};
use syntect::util::LinesWithEndings;

/// Longer files stay plain: a reviewer would wait for them.
const CODE_LEN_MAX: usize = 256 << 10;

/// Knows how code is written in many languages.
pub(crate) struct Syntaxes(SyntaxSet);

impl Syntaxes {
    /// All that come with the library.
    pub(crate) fn load() -> Self {
        Self(SyntaxSet::load_defaults_newlines())
    }

    /// The same text with colours. Its language is known by the file's name, else its first line.
    pub(crate) fn coloured(&self, path: &str, text: &str) -> String {
        if text.len() > CODE_LEN_MAX {
            return text.to_owned();
        }
        let syntax = self.of(path, text);
        // What can't be told apart stays as it is.
        syntax.and_then(|syntax| self.parsed(syntax, text)).unwrap_or_else(|| text.to_owned())
    }

    fn of(&self, path: &str, text: &str) -> Option<&SyntaxReference> {
        let name = path.rsplit('/').next().unwrap_or(path);
        let extension = name.rsplit('.').next().unwrap_or(name);
        let by_name = self.0.find_syntax_by_extension(extension);
        by_name
            .or_else(|| self.0.find_syntax_by_first_line(text.lines().next().unwrap_or_default()))
    }

    fn parsed(&self, syntax: &SyntaxReference, text: &str) -> Option<String> {
        let mut state = ParseState::new(syntax);
        let mut stack = ScopeStack::new();
        let mut coloured = String::with_capacity(text.len() * 2);
        for line in LinesWithEndings::from(text) {
            let steps = state.parse_line(line, &self.0).ok()?;
            for (piece, step) in ScopeRegionIterator::new(&steps, line) {
                stack.apply(step).ok()?;
                // No colour goes over the end of a line.
                let (code, end) = match piece.strip_suffix('\n') {
                    Some(code) => (code, "\n"),
                    None => (piece, ""),
                };
                coloured.push_str(&painted(code, stack.as_slice()));
                coloured.push_str(end);
            }
        }
        Some(coloured)
    }
}

fn painted(code: &str, scopes: &[Scope]) -> String {
    let names = scopes.iter().rev().map(|scope| scope.build_string());
    for name in names {
        match name.split('.').next().unwrap_or_default() {
            _ if code.trim().is_empty() => {}
            "comment" => return code.dimmed().to_string(),
            "string" => return code.green().to_string(),
            "constant" => return code.cyan().to_string(),
            "keyword" | "storage" => return code.magenta().to_string(),
            "support" => return code.blue().to_string(),
            "entity" => return code.yellow().to_string(),
            _ => {}
        }
    }
    code.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn code_keeps_its_letters_and_gets_colours() {
        let syntaxes = Syntaxes::load();
        let python = "# sums\nimport os\ndef f(x):\n    return 'a' + str(1)\n";
        let coloured = syntaxes.coloured("lib/app.py", python);
        assert_eq!(plain(&coloured), python);
        assert!(coloured.lines().all(|line| line.contains('\u{1b}')), "{coloured:?}");
        let shell = "#!/bin/sh\nset -e\necho \"$HOME\"";
        assert_eq!(plain(&syntaxes.coloured("run", shell)), shell);
        assert!(syntaxes.coloured("run", shell).contains('\u{1b}'), "by its first line");
        assert_eq!(syntaxes.coloured("data.unknown", "1,2\n"), "1,2\n");
    }
}
