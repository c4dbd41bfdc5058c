//! The rules for shell scripts: which commands may not stand where a command stands.
//!
//! Words are told apart as a shell does it (quotes, comments, operators, substitutions, here
//! documents), and nothing is expanded: a command whose name is put together while the script
//! runs is not seen.

use std::iter::Peekable;
use std::str::Chars;

use sway_core::job::JobFile;

use super::Finding;

/// Commands, and why not.
const BLOCKED: [(&str, &[&str]); 4] = [
    (
        "it reaches for the network",
        &[
            "curl", "ftp", "nc", "ncat", "netcat", "rsync", "scp", "sftp", "socat", "ssh",
            "telnet", "wget",
        ],
    ),
    (
        "it would be somebody else",
        &["chroot", "doas", "newgrp", "nsenter", "runuser", "setpriv", "su", "sudo", "unshare"],
    ),
    (
        "it changes the machine",
        &[
            "dd", "fdisk", "halt", "insmod", "iptables", "losetup", "mkfs", "mknod", "modprobe",
            "mount", "poweroff", "reboot", "shutdown", "sysctl", "umount",
        ],
    ),
    ("it makes code of text", &["eval"]),
];

/// Interpreters, and the option behind which they take code as text.
const INTERPRETERS: [(&[&str], char); 2] =
    [(&["ash", "bash", "dash", "ksh", "python", "sh", "zsh"], 'c'), (&["node", "perl"], 'e')];

/// Commands that run the command behind them.
const PREFIXES: [&str; 9] =
    ["builtin", "command", "env", "exec", "nice", "nohup", "time", "timeout", "xargs"];

/// Words after which a command stands.
const RESERVED: [&str; 9] = ["!", "{", "do", "elif", "else", "if", "then", "until", "while"];

/// What `rm` may not be given.
const EVERYTHING: [&str; 5] = ["/", "/*", "~", "~/", "$HOME"];

/// The longest script that is looked at, in bytes.
const SCRIPT_LEN_MAX: usize = 1 << 20;

/// Substitutions within one another that are looked into.
const DEPTH_MAX: usize = 16;

/// Whether a file is a shell script, by its name or its first line.
pub(super) fn is_shell(file: &JobFile) -> bool {
    let first = file.content.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    let mut words = first.strip_prefix("#!").unwrap_or_default().split_whitespace().map(base_name);
    let interpreter = words.find(|word| *word != "env").unwrap_or_default();
    [".sh", ".bash"].iter().any(|end| file.path.ends_with(end))
        || ["ash", "bash", "dash", "ksh", "sh", "zsh"].contains(&interpreter)
}

/// What is wrong with a script.
pub(super) fn findings(file: &JobFile, max: usize) -> Vec<Finding> {
    let mut rules = Rules { found: Vec::new(), max, file: &file.path };
    if file.content.len() > SCRIPT_LEN_MAX {
        rules.find((1, 1), "the script is too long to be looked at".to_owned());
    } else {
        let text = String::from_utf8_lossy(&file.content);
        rules.script(Cursor { rest: text.chars().peekable(), place: (1, 1) }, 0);
    }
    rules.found
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Line and column, counted from 1.
type Place = (usize, usize);

struct Word {
    text: String,
    place: Place,
}

/// The rest of a script, and where it begins.
struct Cursor<'a> {
    rest: Peekable<Chars<'a>>,
    place: Place,
}

impl Cursor<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        let (line, column) = self.place;
        self.place = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        Some(c)
    }

    fn next_if(&mut self, wanted: impl Fn(char) -> bool) -> Option<char> {
        self.rest.peek().is_some_and(|c| wanted(*c)).then(|| self.next()).flatten()
    }

    /// All up to `end`, which is passed over; `opens` has another end follow first.
    fn until(&mut self, end: char, opens: Option<char>) -> String {
        let (mut text, mut open) = (String::new(), 0);
        while let Some(c) = self.next() {
            match c {
                c if Some(c) == opens => open += 1,
                c if c == end && open == 0 => break,
                c if c == end => open -= 1,
                _ => {}
            }
            text.push(c);
        }
        text
    }

    /// The word that ends a here document, after its `<<`.
    fn delimiter(&mut self) -> String {
        while self.next_if(|c| "- \t".contains(c)).is_some() {}
        let mut word = String::new();
        while let Some(c) = self.next_if(|c| !c.is_whitespace() && !";&|()<>".contains(c)) {
            if !"'\"\\".contains(c) {
                word.push(c);
            }
        }
        word
    }
}

struct Rules<'a> {
    found: Vec<Finding>,
    /// How many there may be.
    max: usize,
    file: &'a str,
}

impl Rules<'_> {
    /// Goes through the commands of a script.
    fn script(&mut self, mut cursor: Cursor<'_>, depth: usize) {
        let (mut words, mut word) = (Vec::new(), None::<Word>);
        let (mut quote, mut documents) = (None, Vec::new());
        loop {
            let place = cursor.place;
            let Some(c) = cursor.next() else { break };
            let begun = || Word { text: String::new(), place };
            match (quote, c) {
                (Some('\''), '\'') | (Some('"'), '"') => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(c);
                    word.get_or_insert_with(begun);
                }
                (Some('\''), _) => word.get_or_insert_with(begun).text.push(c),
                (_, '\\') => {
                    if let Some(next) = cursor.next().filter(|next| *next != '\n') {
                        word.get_or_insert_with(begun).text.push(next);
                    }
                }
                (_, '$' | '`') if c == '`' || cursor.next_if(|next| next == '(').is_some() => {
                    let place = cursor.place;
                    let inner = match c {
                        '`' => cursor.until('`', None),
                        _ => cursor.until(')', Some('(')),
                    };
                    word.get_or_insert_with(begun).text.push('$');
                    if depth == DEPTH_MAX {
                        self.find(place, "substitutions are nested too deeply".to_owned());
                    } else {
                        let inner = Cursor { rest: inner.chars().peekable(), place };
                        self.script(inner, depth + 1);
                    }
                }
                (Some(_), _) => word.get_or_insert_with(begun).text.push(c),
                (None, '#') if word.is_none() => while cursor.next_if(|c| c != '\n').is_some() {},
                (None, '<') if cursor.next_if(|next| next == '<').is_some() => {
                    words.extend(word.take());
                    if cursor.next_if(|next| next == '<').is_none() {
                        documents.push(cursor.delimiter());
                    }
                }
                (None, ' ' | '\t' | '\r' | '<' | '>') => words.extend(word.take()),
                (None, '\n' | ';' | '&' | '|' | '(' | ')') => {
                    words.extend(word.take());
                    self.command(&std::mem::take(&mut words));
                    if c == '\n' {
                        for end in documents.drain(..) {
                            while cursor.rest.peek().is_some()
                                && cursor.until('\n', None).trim_start_matches('\t') != end
                            {
                            }
                        }
                    }
                }
                (None, _) => word.get_or_insert_with(begun).text.push(c),
            }
        }
        words.extend(word);
        self.command(&words);
    }

    /// Looks at the words of one simple command.
    fn command(&mut self, words: &[Word]) {
        let mut prefixed = false;
        for (at, word) in words.iter().enumerate() {
            let name = base_name(&word.text);
            let is_argument = word.text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
            let goes_before =
                RESERVED.contains(&name) || is_assignment(&word.text) || (prefixed && is_argument);
            if PREFIXES.contains(&name) {
                prefixed = true;
            } else if !goes_before {
                return self.judge(name, word.place, &words[at + 1..]);
            }
        }
    }

    fn judge(&mut self, name: &str, place: Place, arguments: &[Word]) {
        // mkfs of mkfs.ext4, python of python3.11.
        let stem = name.split('.').next().unwrap_or(name);
        let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        if let Some((why, _)) = BLOCKED.iter().find(|(_, names)| names.contains(&stem)) {
            return self.find(place, format!("{name} is not allowed: {why}"));
        }
        if let Some((_, code)) = INTERPRETERS.iter().find(|(names, _)| names.contains(&stem)) {
            let options = arguments.iter().map(|word| word.text.as_str());
            let mut options = options.take_while(|text| text.starts_with('-'));
            if let Some(option) = options.find(|it| !it.starts_with("--") && it.contains(*code)) {
                let reason = format!("{name} {option} is not allowed: it makes code of text");
                return self.find(place, reason);
            }
        }
        if name == "rm" && arguments.iter().any(|word| EVERYTHING.contains(&word.text.as_str())) {
            self.find(place, "rm of everything is not allowed".to_owned());
        }
    }

    fn find(&mut self, (line, column): Place, reason: String) {
        if self.found.len() < self.max {
            self.found.push(Finding { file: self.file.to_owned(), line, column, reason });
        }
    }
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use sway_core::job::{JobSpec, Program};

    use super::super::Policy;
    use super::*;

    fn told(source: &str) -> Vec<String> {
        let file = |path: &str, source: &str| JobFile {
            path: path.to_owned(),
            content: source.into(),
            executable: true,
        };
        let files = vec![file("run.sh", source), file("notes.txt", "sudo reboot")];
        let program = Program::Folder { files, entry: "run.sh".to_owned() };
        let findings = Policy::Science.findings(&JobSpec::new(None, program), 20);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn honest_scripts_are_allowed() {
        for source in [
            "#!/bin/bash\nset -euo pipefail\n# Install dependencies\n\
             if [ -f requirements.txt ]; then\n    pip install -r requirements.txt\nfi\n\
             # Run analysis\npython analyze.py\necho \"Analysis complete!\"\n",
            "for host in curl wget; do echo $host; done",
            "echo 'sudo reboot' \"curl example.org\" # mount",
            "cat <<EOF >out; echo done\nsudo mount\nEOF\nrm -rf build/tmp",
            "grep mount log.txt; ls /usr/bin/curl; x=mount",
            "bash -eu other.sh; python3 -u a.py -c 3; python - <<'END'\nimport csv\nEND\n",
            "case $1 in a) echo a;; *) echo b;; esac; echo $((1 + 2))",
        ] {
            assert_eq!(told(source), [""; 0], "{source}");
        }
    }

    #[test]
    fn blocked_commands_are_found_where_a_command_stands() {
        for (source, finding) in [
            ("sudo rm x", "run.sh:1:1: sudo is not allowed: it would be somebody else"),
            ("a; /usr/bin/curl x", "run.sh:1:4: curl is not allowed: it reaches for the network"),
            ("if true; then\n  wget x\nfi", "run.sh:2:3: wget is not allowed"),
            ("cat x | nc host 1", "run.sh:1:9: nc is not allowed"),
            ("A=1 env B=2 timeout 5 ssh host", "run.sh:1:23: ssh is not allowed"),
            ("echo \"$(curl x)\"", "run.sh:1:9: curl is not allowed"),
            ("echo `id; mount`", "run.sh:1:11: mount is not allowed: it changes the machine"),
            ("(c\"ur\"l x)", "run.sh:1:2: curl is not allowed"),
            ("\\s\\u", "run.sh:1:1: su is not allowed"),
            ("mkfs.ext4 /dev/sda", "run.sh:1:1: mkfs.ext4 is not allowed"),
            ("eval \"$x\"", "run.sh:1:1: eval is not allowed: it makes code of text"),
            ("python3 -c 'import os'", "run.sh:1:1: python3 -c is not allowed"),
            ("exec bash -lc x", "run.sh:1:6: bash -lc is not allowed"),
            ("rm -rf /", "run.sh:1:1: rm of everything is not allowed"),
            ("cat <<A\n$x\nA\nreboot", "run.sh:4:1: reboot is not allowed"),
            ("x() { dd if=/dev/zero; }", "run.sh:1:7: dd is not allowed"),
        ] {
            let told = told(source);
            assert_eq!(told.len(), 1, "{source}: {told:?}");
            assert!(told[0].starts_with(finding), "{source}: {told:?}");
        }
    }

    #[test]
    fn hostile_scripts_cost_little_and_are_refused() {
        assert_eq!(told(&"dd;".repeat(100_000)).len(), 20);
        let nested = "$(".repeat(1000);
        assert!(told(&nested)[0].ends_with("substitutions are nested too deeply"));
        let long = "#".repeat(SCRIPT_LEN_MAX + 1);
        assert!(told(&long)[0].ends_with("too long to be looked at"));
        assert_eq!(told("echo 'open \"$(`<<"), [""; 0]);
    }
}
