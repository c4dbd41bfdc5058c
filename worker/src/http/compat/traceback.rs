//! What Python's last words say: the exception, and the line of the user's own code.

/// The exception and the line of `file` that a traceback at the end of `stderr` names, such as
/// `NameError on line 1`. None where there is no traceback.
pub(super) fn summary(stderr: &str, file: &str) -> Option<String> {
    let lines: Vec<&str> = stderr.lines().map(unframed).collect();
    let header = lines.iter().rposition(|line| is_header(line));
    // A syntax error has a place and no header.
    let start = header.or_else(|| lines.iter().rposition(|line| frame(line).is_some()))?;
    let end = lines[start + 1..].iter().position(|line| is_exception(line))? + start + 1;
    let mut own = lines[start..end].iter().filter_map(|line| frame(line));
    let own = own.rfind(|(path, _)| path.rsplit('/').next() == Some(file));
    let name = lines[end].split(':').next().unwrap_or_default().trim();
    let name = name.rsplit('.').next().unwrap_or(name);
    Some(match own {
        Some((_, line)) => format!("{name} on line {line}"),
        None => name.to_owned(),
    })
}

/// A line of an exception group without the group's frame.
fn unframed(line: &str) -> &str {
    line.trim_start_matches(' ')
        .strip_prefix("| ")
        .filter(|_| line.starts_with("  "))
        .unwrap_or(line)
}

fn is_header(line: &str) -> bool {
    line == "Traceback (most recent call last):"
        || line.trim_start() == "+ Exception Group Traceback (most recent call last):"
}

/// File and line of a frame.
fn frame(line: &str) -> Option<(&str, u64)> {
    let rest = line.strip_prefix("  File \"")?;
    let (path, rest) = rest.split_once("\", line ")?;
    let number = rest.split(',').next()?;
    Some((path, number.parse().ok()?))
}

/// `ValueError`, `ValueError: words` or `json.decoder.JSONDecodeError: words`.
fn is_exception(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default();
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && name.split('.').all(|part| !part.is_empty() && part.chars().all(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(stderr: &str) -> String {
        summary(stderr, "main.py").unwrap_or_default()
    }

    #[test]
    fn the_exception_and_the_users_line_are_told() {
        for (stderr, told) in [
            (
                "Traceback (most recent call last):\n  File \"/app/main.py\", line 1, in <module>\n    \
                 undefined\nNameError: name 'undefined' is not defined\n",
                "NameError on line 1",
            ),
            // The last line of the user's own, not the library's.
            (
                "Traceback (most recent call last):\n  File \"/main.py\", line 7, in <module>\n    f()\n  \
                 File \"/main.py\", line 3, in f\n    json.loads('')\n  \
                 File \"/usr/lib/python3.11/json/decoder.py\", line 355, in raw_decode\n    \
                 raise\njson.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)\n",
                "JSONDecodeError on line 3",
            ),
            (
                "  File \"/app/main.py\", line 2\n    def f(:\n          ^\nSyntaxError: invalid syntax\n",
                "SyntaxError on line 2",
            ),
            // Of chained exceptions the last one.
            (
                "Traceback (most recent call last):\n  File \"/main.py\", line 2, in <module>\n\
                 KeyError: 'a'\n\nDuring handling of the above exception, another exception occurred:\n\n\
                 Traceback (most recent call last):\n  File \"/main.py\", line 4, in <module>\n\
                 ValueError: two\nlines: of text\nsway: a note\n",
                "ValueError on line 4",
            ),
            (
                "before\n  + Exception Group Traceback (most recent call last):\n  |   \
                 File \"/main.py\", line 1, in <module>\n  |     raise ExceptionGroup\n  | \
                 ExceptionGroup: x (1 sub-exception)\n  +-+---------------- 1 ----------------\n    \
                 | ValueError: a\n    +------------------------------------\n",
                "ExceptionGroup on line 1",
            ),
            ("Traceback (most recent call last):\nKeyboardInterrupt\n", "KeyboardInterrupt"),
            ("", ""),
            ("just words\nmain.py: failed\n", ""),
            ("Traceback (most recent call last):\n", ""),
        ] {
            assert_eq!(of(stderr), told, "{stderr}");
        }
    }
}
