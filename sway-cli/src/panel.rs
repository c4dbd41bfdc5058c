//! The panel that says what a job was given, before it starts.

/// Columns of a panel at least, its frame not counted: room for the title.
const WIDTH_MIN: usize = 40;

/// Lines in a frame, with a title in its upper edge.
pub(crate) fn panel(title: &str, lines: &[String]) -> String {
    let width = |text: &str| text.chars().count();
    let longest = lines.iter().map(|line| width(line)).max().unwrap_or(0);
    let inner = (longest + 2).max(width(title) + 4).max(WIDTH_MIN);
    let edge = inner - width(title) - 2;
    let (left, right) = ("─".repeat(edge / 2), "─".repeat(edge - edge / 2));
    let mut panel = format!("╭{left} {title} {right}╮\n");
    for line in lines {
        // What a name may hold must not draw on the terminal.
        let line: String =
            line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let rest = " ".repeat(inner - 2 - width(&line));
        panel.push_str(&format!("│ {line}{rest} │\n"));
    }
    panel + &format!("╰{}╯", "─".repeat(inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_as_syft_runtime_s() {
        let lines = [
            "Starting job",
            "Function: example/ds/function1 → /code",
            "Dataset:  example/do/dataset1/private_message.txt → /data/private_message.txt",
            "Output:   jobs/20250214_122758 → /output",
            "Timeout:  10s",
        ];
        let shown = panel("Job Configuration", &lines.map(str::to_owned));
        let expected = "\
╭────────────────────────────── Job Configuration ──────────────────────────────╮
│ Starting job                                                                  │
│ Function: example/ds/function1 → /code                                        │
│ Dataset:  example/do/dataset1/private_message.txt → /data/private_message.txt │
│ Output:   jobs/20250214_122758 → /output                                      │
│ Timeout:  10s                                                                 │
╰───────────────────────────────────────────────────────────────────────────────╯";
        assert_eq!(shown, expected);
        assert!(panel("T", &["a\u{1b}[2J".to_owned()]).contains("a\u{fffd}[2J"));
    }
}
