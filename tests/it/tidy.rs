//! The architecture, held by a test: modules import downwards only.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first; a module may use those before it.
const ORDER: [&str; 16] = [
    "ids", "crypto", "timer", "frame", "metrics", "log", "protocol", "usage", "quota", "auth",
    "upstream", "sandbox", "session", "http", "config", "app",
];

#[test]
fn modules_import_downwards_only() {
    let mut offences = Vec::new();
    for (module, file) in source_files() {
        let Some(rank) = rank(&module) else { continue };
        for used in modules_used(&fs::read_to_string(&file).unwrap()) {
            let used_rank = self::rank(&used);
            if used_rank.is_none_or(|used_rank| used_rank > rank) {
                offences.push(format!("{} uses crate::{used}", file.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{}", offences.join("\n"));
}

#[test]
fn every_module_has_its_place_in_the_order() {
    let modules: BTreeSet<String> = source_files()
        .map(|(module, _)| module)
        .filter(|module| !matches!(module.as_str(), "lib" | "main"))
        .collect();
    let order: BTreeSet<String> = ORDER.map(str::to_owned).into();
    assert_eq!(modules, order);
}

#[test]
fn the_list_finds_what_is_imported() {
    let source = "use crate::ids::{A, B};\nuse crate::{frame, log::{self, X}};\n\
                  // crate::config is a comment\nlet a = crate::quota::b();\n\
                  use crate::{\n    usage::Usage,\n    auth,\n};\n";
    let expected = ["auth", "frame", "ids", "log", "quota", "usage"];
    assert_eq!(modules_used(source), expected.map(str::to_owned).into());
}

#[test]
fn session_knows_neither_http_server_nor_websocket_library() {
    for (module, file) in source_files() {
        if matches!(
            module.as_str(),
            "frame" | "session" | "protocol" | "usage" | "quota"
        ) {
            let source = without_comments(&fs::read_to_string(&file).unwrap());
            for library in ["axum::", "hyper::", "tungstenite::"] {
                assert!(
                    !source.contains(library),
                    "{} uses {library}",
                    file.display()
                );
            }
        }
    }
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == module)
}

/// Every file under `src/`, with the top-level module that it belongs to.
fn source_files() -> impl Iterator<Item = (String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.into_iter().map(move |file| {
        let inside = file.strip_prefix(&root).expect("found below src");
        let first = inside.components().next().expect("a file has a name");
        let module = Path::new(&first)
            .with_extension("")
            .to_string_lossy()
            .into_owned();
        (module, file)
    })
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The top-level modules that a source text names after `crate::`.
fn modules_used(source: &str) -> BTreeSet<String> {
    let source = without_comments(source);
    let mut used = BTreeSet::new();
    for (at, found) in source.match_indices("crate::") {
        // `$crate::` and `my_crate::` are other crates' names.
        let is_ours =
            !source[..at].ends_with(|c: char| c == '_' || c == '$' || c.is_alphanumeric());
        if !is_ours {
            continue;
        }
        let rest = &source[at + found.len()..];
        match rest.strip_prefix('{') {
            Some(group) => used.extend(first_names(group)),
            None => used.extend(leading_name(rest)),
        }
    }
    used
}

/// The first name of each path in the body of a `{…}` group.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut is_start) = (Vec::new(), 0, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if depth == 0 && is_start && !c.is_whitespace() => {
                names.extend(leading_name(&group[at..]));
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

fn leading_name(path: &str) -> Option<String> {
    let end = path
        .find(|c: char| c != '_' && !c.is_alphanumeric())
        .unwrap_or(path.len());
    (end > 0).then(|| path[..end].to_owned())
}

fn without_comments(source: &str) -> String {
    source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}
