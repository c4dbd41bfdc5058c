//! How deep the syntax tree of a source can be, told by its tokens: a tree is walked and dropped
//! by recursion, so a hostile one must not be made at all.

use ruff_python_ast::token::TokenKind;
use ruff_python_parser::Mode;
use ruff_python_parser::lexer::lex;

/// Whether the tree may be deeper than `max`. Every token that can put one node into another
/// counts until the comma or the line that ends what it belongs to.
pub(super) fn exceeds(source: &str, max: usize) -> bool {
    let mut tokens = lex(source, Mode::Module);
    // How much each open bracket has gathered, and all of them.
    let (mut open, mut gathered, mut total, mut blocks) = (Vec::new(), 0, 0, 0_usize);
    loop {
        match tokens.next_token() {
            TokenKind::EndOfFile => return false,
            TokenKind::Indent => blocks += 1,
            TokenKind::Dedent => blocks = blocks.saturating_sub(1),
            TokenKind::Newline => {
                open.clear();
                (gathered, total) = (0, 0);
            }
            TokenKind::Comma | TokenKind::Semi => {
                total -= gathered;
                gathered = 0;
            }
            TokenKind::Lpar
            | TokenKind::Lsqb
            | TokenKind::Lbrace
            | TokenKind::FStringStart
            | TokenKind::TStringStart => {
                total += 1;
                open.push(gathered + 1);
                gathered = 0;
            }
            TokenKind::Rpar
            | TokenKind::Rsqb
            | TokenKind::Rbrace
            | TokenKind::FStringEnd
            | TokenKind::TStringEnd => {
                if let Some(outer) = open.pop() {
                    total -= gathered;
                    gathered = outer;
                }
            }
            TokenKind::Name
            | TokenKind::Int
            | TokenKind::Float
            | TokenKind::Complex
            | TokenKind::String
            | TokenKind::FStringMiddle
            | TokenKind::TStringMiddle
            | TokenKind::Comment
            | TokenKind::NonLogicalNewline
            | TokenKind::True
            | TokenKind::False
            | TokenKind::None
            | TokenKind::Ellipsis => {}
            _ => (gathered, total) = (gathered + 1, total + 1),
        }
        if blocks + total > max {
            return true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_and_brackets_count_and_lists_do_not() {
        for (source, deep) in [
            (format!("x = [{}]", "-1, ".repeat(5000)), false),
            (format!("x = {{{}}}", "'a': f(1), ".repeat(5000)), false),
            ("x = 1 + 2\n".repeat(5000), false),
            (format!("x = {}1{}", "(".repeat(600), ")".repeat(600)), true),
            (format!("x = {}", "(".repeat(100_000)), true),
            (format!("x = 1{}", " + 1".repeat(600)), true),
            (format!("x = f{}", "()".repeat(600)), true),
            (format!("x = a{}", ".b".repeat(600)), true),
            (format!("x = {}1", "not ".repeat(600)), true),
            (format!("x = {}1", "lambda: ".repeat(600)), true),
            (format!("x = 1{}", " if 1 else 1".repeat(600)), true),
            ((0..600).map(|n| format!("{}if 1:\n", " ".repeat(n))).collect(), true),
        ] {
            assert_eq!(exceeds(&source, 500), deep, "{}", &source[..40]);
        }
    }
}
