//! The rules for Python: which modules may be imported, which names and attributes not be used.

use std::collections::BTreeSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{Expr, ExprAttribute, ExprCall, ExprName, Stmt};
use ruff_python_parser::parse_module;
use ruff_text_size::{Ranged, TextSize};
use sway_core::job::JobFile;

use super::{Finding, depth};

/// What may be imported, with all below it.
const MODULES: [&str; 20] = [
    "__future__",
    "cmath",
    "collections",
    "csv",
    "datetime",
    "decimal",
    "fractions",
    "functools",
    "itertools",
    "json",
    "math",
    "matplotlib",
    "numpy",
    "pandas",
    "random",
    "re",
    "scipy",
    "sklearn",
    "statistics",
    "sympy",
];

/// Built-in functions that open files, or make code of text.
const NAMES: [&str; 8] =
    ["__builtins__", "__import__", "__loader__", "compile", "eval", "exec", "file", "open"];

/// Ways from a value to the interpreter, and modules within modules.
const ATTRIBUTES: [&str; 17] = [
    "__base__",
    "__bases__",
    "__builtins__",
    "__class__",
    "__closure__",
    "__code__",
    "__getattribute__",
    "__globals__",
    "__import__",
    "__loader__",
    "__mro__",
    "__spec__",
    "__subclasses__",
    "os",
    "socket",
    "subprocess",
    "sys",
];

/// Functions whose second argument is the name of an attribute.
const BY_NAME: [&str; 4] = ["delattr", "getattr", "hasattr", "setattr"];

/// How deep a syntax tree may be: Python itself takes a few times that.
const DEPTH_MAX: usize = 500;

/// Bytes of the stack on which a tree of that depth is walked and dropped.
const STACK_LEN: usize = 64 << 20;

/// Whether a file is Python, by its name or its first line.
pub(super) fn is_python(file: &JobFile) -> bool {
    let first = file.content.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let shebang = String::from_utf8_lossy(first);
    file.path.ends_with(".py") || (shebang.starts_with("#!") && shebang.contains("python"))
}

/// Modules that the files themselves are.
pub(super) fn modules(files: &[JobFile]) -> BTreeSet<String> {
    let first = |file: &JobFile| match file.path.split_once('/') {
        Some((folder, _)) => folder.to_owned(),
        None => file.path.trim_end_matches(".py").to_owned(),
    };
    files.iter().filter(|file| is_python(file)).map(first).collect()
}

/// What is wrong with a file. What can't be read is: it could hold anything.
pub(super) fn findings(file: &JobFile, own: &BTreeSet<String>) -> Vec<Finding> {
    let whole = |reason: &str| {
        vec![Finding { file: file.path.clone(), line: 1, column: 1, reason: reason.to_owned() }]
    };
    let Ok(source) = str::from_utf8(&file.content) else {
        return whole("the source is not UTF-8");
    };
    if let Some(encoding) = declared_encoding(source) {
        return whole(&format!("the source says that its encoding is {encoding}"));
    }
    if depth::exceeds(source, DEPTH_MAX) {
        return whole("the source is nested too deeply to be looked at");
    }
    let look = || look(source, &file.path, own);
    // The trees of ordinary sources need none of it; nobody else's stack is at stake.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_LEN).spawn_scoped(scope, look);
        let looked = thread.ok().and_then(|thread| thread.join().ok());
        looked.unwrap_or_else(|| whole("the source can't be looked at"))
    })
}

fn look(source: &str, path: &str, own: &BTreeSet<String>) -> Vec<Finding> {
    let mut rules = Rules { source, path, own, findings: Vec::new() };
    match parse_module(source) {
        Ok(module) => module.syntax().body.iter().for_each(|stmt| rules.visit_stmt(stmt)),
        Err(error) => rules.object(error.location.start(), format!("SyntaxError: {}", error.error)),
    }
    rules.findings
}

/// An encoding other than UTF-8 that the first two lines name (PEP 263): Python would read other
/// characters than we do.
fn declared_encoding(source: &str) -> Option<&str> {
    let comments = source.lines().take(2).filter_map(|line| line.trim_start().strip_prefix('#'));
    let named = comments.filter_map(|comment| {
        let (_, rest) = comment.split_once("coding")?;
        let rest = rest.strip_prefix([':', '='])?.trim_start();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
        Some(&rest[..end.unwrap_or(rest.len())])
    });
    let is_utf8 = |name: &str| ["utf-8", "utf8", "utf_8"].contains(&name.to_lowercase().as_str());
    named.filter(|name| !name.is_empty() && !is_utf8(name)).last()
}

struct Rules<'a> {
    source: &'a str,
    path: &'a str,
    own: &'a BTreeSet<String>,
    findings: Vec<Finding>,
}

impl Rules<'_> {
    fn object(&mut self, at: TextSize, reason: String) {
        let before = &self.source[..at.to_usize().min(self.source.len())];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        self.findings.push(Finding {
            file: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            reason,
        });
    }

    fn import(&mut self, at: TextSize, module: &str) {
        let first = module.split('.').next().unwrap_or_default();
        if !MODULES.contains(&first) && !self.own.contains(first) {
            self.object(at, format!("import of {first} is not allowed"));
        }
    }

    fn attribute(&mut self, at: TextSize, name: &str) {
        if ATTRIBUTES.contains(&name) {
            self.object(at, format!("use of {name} is not allowed"));
        }
    }
}

impl<'a> Visitor<'a> for Rules<'_> {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Import(import) => {
                for alias in &import.names {
                    self.import(alias.start(), &alias.name);
                }
            }
            Stmt::ImportFrom(import) => {
                if import.level == 0 {
                    let module = import.module.as_ref().map_or("", |module| module.as_str());
                    self.import(import.start(), module);
                }
                for alias in &import.names {
                    self.attribute(alias.start(), &alias.name);
                }
            }
            _ => {}
        }
        walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(ExprName { id, ctx, .. })
                if ctx.is_load() && NAMES.contains(&id.as_str()) =>
            {
                self.object(expr.start(), format!("use of {id} is not allowed"));
            }
            Expr::Attribute(ExprAttribute { attr, .. }) => self.attribute(attr.start(), attr),
            Expr::Call(ExprCall { func, arguments, .. }) => {
                let by_name = func.as_name_expr().is_some_and(|f| BY_NAME.contains(&f.id.as_str()));
                if let (true, Some(Expr::StringLiteral(name))) = (by_name, arguments.args.get(1)) {
                    self.attribute(name.start(), name.value.to_str());
                }
            }
            _ => {}
        }
        walk_expr(self, expr);
    }
}

#[cfg(test)]
mod tests {
    use sway_core::handler::{Handler, Runtime};
    use sway_core::job::{JobSpec, Program};

    use super::super::Policy;
    use super::*;

    fn file(path: &str, source: &str) -> JobFile {
        JobFile { path: path.to_owned(), content: source.into(), executable: false }
    }

    fn told(source: &str) -> Vec<String> {
        let program = Program::Script { file: file("main.py", source) };
        let findings = Policy::Science.findings(&JobSpec::new(None, program), 20);
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn documented_code_is_allowed() {
        for source in [
            "print('Hello, World!')",
            "\nimport math\nresult = math.sqrt(16) + math.pi\nprint(f'Result: {result}')\n",
            "import numpy as np\nimport pandas as pd\ndata = np.random.randn(100)\n\
             df = pd.DataFrame({'values': data})\nprint(f'Mean: {df.values.mean():.3f}')",
            "import sympy as sp\nx = sp.Symbol('x')\nprint(sp.solve(x**2 - 4*x + 3, x))",
            "import re, csv, json\nfrom collections import Counter\npattern = re.compile('a')",
            "from matplotlib import pyplot as plt\nfrom sklearn.svm import SVC",
            "class A:\n    def open(self): return self.file\nfile = 3\nprint(A().open())",
            "# -*- coding: utf-8 -*-\nprint('é')",
        ] {
            assert_eq!(told(source), [""; 0], "{source}");
        }
    }

    #[test]
    fn blocked_operations_are_found_with_line_and_column() {
        for (source, finding) in [
            ("import os", "main.py:1:8: import of os is not allowed"),
            ("import math, socket as s", "main.py:1:14: import of socket is not allowed"),
            ("x = 1\nimport urllib.request", "main.py:2:8: import of urllib is not allowed"),
            ("from subprocess import run", "main.py:1:1: import of subprocess is not allowed"),
            ("import requests", "main.py:1:8: import of requests is not allowed"),
            ("é = open('/etc/passwd')", "main.py:1:5: use of open is not allowed"),
            ("if 1:\n    eval('1')", "main.py:2:5: use of eval is not allowed"),
            ("f = exec", "main.py:1:5: use of exec is not allowed"),
            ("compile('1', '', 'eval')", "main.py:1:1: use of compile is not allowed"),
            ("__import__('os')", "main.py:1:1: use of __import__ is not allowed"),
            ("().__class__.x", "main.py:1:4: use of __class__ is not allowed"),
            ("(lambda: 0).__globals__", "main.py:1:13: use of __globals__ is not allowed"),
            ("f'{print.__code__}'", "main.py:1:10: use of __code__ is not allowed"),
            ("getattr(1, '__class__')", "main.py:1:12: use of __class__ is not allowed"),
            ("import numpy as n\nn.os", "main.py:2:3: use of os is not allowed"),
            ("from numpy import os", "main.py:1:19: use of os is not allowed"),
            ("def f(:", "main.py:1:7: SyntaxError"),
            (
                "# coding: utf-7\nimport math",
                "main.py:1:1: the source says that its encoding is utf-7",
            ),
        ] {
            let told = told(source);
            assert_eq!(told.len(), 1, "{source}: {told:?}");
            assert!(told[0].starts_with(finding), "{source}: {told:?}");
        }
    }

    #[test]
    fn own_modules_may_be_imported_and_are_looked_at() {
        let files = vec![
            file("main.py", "import lib\nfrom app.x import y\nfrom . import z"),
            file("lib.py", "import os"),
            file("app/x.py", "y = 1"),
            file("notes.txt", "import os"),
        ];
        let handler = Handler {
            runtime: Runtime::Python,
            handler: "main.handler".to_owned(),
            files,
            input: String::new(),
        };
        let findings = Policy::Science.findings(&JobSpec::new(None, Program::Handler(handler)), 20);
        let told: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["lib.py:1:8: import of os is not allowed"]);
    }

    #[test]
    fn hostile_sources_are_refused_and_not_walked() {
        for source in [
            "(".repeat(1 << 20),
            format!("x = 1{}", "+1".repeat(400_000)),
            format!("x = {}", "f\"{".repeat(100_000)),
            "\u{0}".repeat(1000),
            format!("x = {}", "[".repeat(450)),
            format!("x = {}1{}", "[".repeat(450), "]".repeat(450)),
        ] {
            let told = told(&source);
            assert!(told.len() <= 1, "{told:?}");
        }
        let program = Program::Script {
            file: JobFile { path: "a.py".into(), content: vec![0xff], executable: false },
        };
        assert_eq!(Policy::Science.findings(&JobSpec::new(None, program), 20).len(), 1);
    }
}
