//! Secrets: the upstream key from the environment or a file, files that stand for secret settings,
//! and which settings are never shown.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use secrecy::SecretString;

use super::Error;
use super::tree::{Node, Origin, Table, Value, get, set};

/// The largest file that is read for a secret, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Settings that may be given as the path of a file with the value, under the second key.
const FROM_FILES: [(&str, &str); 2] = [
    ("usage.redis_password", "usage.redis_password_file"),
    ("usage.store", "usage.store_file"),
];

/// Whether the value at this dotted path must not be shown.
pub(super) fn is_secret(path: &str) -> bool {
    let key = path.rsplit('.').next().unwrap_or(path);
    let key = key.split('[').next().unwrap_or(key);
    !key.ends_with("_file")
        && ["secret", "password", "api_key", "api_keys", "token_sha256"]
            .iter()
            .any(|word| key.ends_with(word))
}

/// A secret file's text without the line end after it, and whether others may read the file.
fn read(path: &Path) -> Result<(String, bool), String> {
    let shown = path.display();
    let describe = |error: std::io::Error| format!("cannot read {shown}: {error}");
    let metadata = fs::metadata(path).map_err(describe)?;
    if !metadata.is_file() {
        return Err(format!(
            "{shown} is no file: give the path of a file with nothing but the secret"
        ));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(format!("{shown} is too large to be a secret"));
    }
    let text = fs::read_to_string(path).map_err(describe)?;
    let text = text.trim_end_matches(['\r', '\n']).to_owned();
    if text.trim().is_empty() {
        return Err(format!("{shown} is empty: write the secret into it"));
    }
    Ok((text, metadata.mode() & 0o004 != 0))
}

/// Puts the contents of files in the place of the keys that name them.
pub(super) fn load_files(root: &mut Table, warnings: &mut Vec<String>) -> Result<(), Error> {
    for (key, file_key) in FROM_FILES {
        let file_path: Vec<&str> = file_key.split('.').collect();
        let path: Vec<&str> = key.split('.').collect();
        let Some(node) = remove(root, &file_path) else {
            continue;
        };
        let fail = |message: String| Error::new(Some(node.origin.clone()), message);
        let both = get(root, &path).is_some_and(|node| node.origin != Origin::Defaults);
        if both {
            return Err(fail(format!(
                "`{key}` and `{file_key}` are both set: keep one of them"
            )));
        }
        let (Value::String(file) | Value::Raw(file)) = &node.value else {
            return Err(fail(format!("`{file_key}` must be the path of a file")));
        };
        let (text, is_open) =
            read(Path::new(file)).map_err(|problem| fail(format!("`{file_key}`: {problem}")))?;
        if is_open {
            warnings.push(format!("everybody on this machine can read {file}"));
        }
        let value = Node {
            value: Value::String(text),
            origin: node.origin.clone(),
        };
        set(root, &path, value).map_err(|at| fail(format!("`{at}` is no table")))?;
    }
    Ok(())
}

fn remove(root: &mut Table, path: &[&str]) -> Option<Node> {
    match path {
        [] => None,
        [key] => root.remove(*key),
        [key, rest @ ..] => match &mut root.get_mut(*key)?.value {
            Value::Table(below) => remove(below, rest),
            _ => None,
        },
    }
}

/// The upstream key from `ELEVENLABS_API_KEY` or the file that `ELEVENLABS_API_KEY_FILE` names.
pub(super) fn api_key<'a>(
    variable: impl Fn(&str) -> Option<&'a str>,
    warnings: &mut Vec<String>,
) -> Result<Option<SecretString>, Error> {
    const KEY: &str = "ELEVENLABS_API_KEY";
    const FILE: &str = "ELEVENLABS_API_KEY_FILE";
    let set = |name| variable(name).filter(|text| !text.trim().is_empty());
    let (name, text) = match (set(KEY), set(FILE)) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Error::overall(format!(
                "{KEY} and {FILE} are both set: keep one of them"
            )));
        }
        (Some(key), None) => (KEY, key.to_owned()),
        (None, Some(file)) => {
            let (text, is_open) = read(Path::new(file))
                .map_err(|problem| Error::overall(format!("{FILE}: {problem}")))?;
            if is_open {
                warnings.push(format!("everybody on this machine can read {file}"));
            }
            (FILE, text)
        }
    };
    let key = text.trim();
    // It goes into a header field as it is.
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = "holds white space or characters that no key has: give the key alone";
        return Err(Error::overall(format!("{name} {message}")));
    }
    Ok(Some(key.to_owned().into()))
}
