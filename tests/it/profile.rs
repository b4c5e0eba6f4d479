//! Which builds are given the recorded profile, and that no other is changed by it.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const OPTIMIZED: [&str; 4] = ["--crate-name", "a crate", "-C", "opt-level=3"];

/// The profile of the compiler that stands in for rustc.
const FITTING: &str = "1.95.0-here-c0ffee.profdata";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The wrapper, beside a profile.
struct Wrapper(TempDir);

impl Wrapper {
    fn new(profile: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = root().join(".cargo/rustc-with-profile");
        fs::copy(source, dir.path().join("wrapper")).unwrap();
        fs::create_dir(dir.path().join("profile")).unwrap();
        fs::write(dir.path().join("profile").join(profile), "").unwrap();
        Self(dir)
    }

    /// `wrapper rustc ARGS…`, as cargo calls it. By way of the shell, since the system does not execute
    /// a file that was written a moment ago and may still be open in a process that another test forks.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .arg(self.0.path().join("wrapper"))
            .arg(root().join("tests/it/support/compiler.sh"))
            .args(args)
            .env_remove("CARGO_PRIMARY_PACKAGE");
        command
    }

    /// What the compiler is called with.
    fn passes_on(&self, args: &[&str]) -> Vec<String> {
        said(&mut self.command(args))
    }
}

fn said(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn an_optimized_build_has_the_profile_of_its_compiler() {
    let wrapper = Wrapper::new(FITTING);
    let profile = wrapper.0.path().join("profile").join(FITTING);
    let profile = format!("-Cprofile-use={}", profile.display());
    let expected = [
        &OPTIMIZED[..],
        &[&profile, "-Cllvm-args=-no-pgo-warn-mismatch"],
    ]
    .concat();
    assert_eq!(wrapper.passes_on(&OPTIMIZED), expected);
}

#[test]
fn every_other_build_is_left_alone() {
    let wrapper = Wrapper::new(FITTING);
    for more in [
        &["--target", "there"][..],
        &["-Cprofile-generate"],
        &["-C", "profile-use=another"],
        &["-Cinstrument-coverage"],
    ] {
        let args = [&OPTIMIZED[..], more].concat();
        assert_eq!(wrapper.passes_on(&args), args);
    }
    let unoptimized = ["--crate-name", "a crate", "-C", "debuginfo=1"];
    assert_eq!(wrapper.passes_on(&unoptimized), unoptimized);
    for other in [
        "1.94.0-here-c0ffee",
        "1.95.0-there-c0ffee",
        "1.95.0-here-decade",
    ] {
        let wrapper = Wrapper::new(&format!("{other}.profdata"));
        assert_eq!(wrapper.passes_on(&OPTIMIZED), OPTIMIZED);
    }
}

#[test]
fn tests_are_told_where_programs_are() {
    let wrapper = Wrapper::new(FITTING);
    let mut command = wrapper.command(&["--test"]);
    command
        .env("CARGO_PRIMARY_PACKAGE", "1")
        .env("CARGO_BIN_EXE_a-b", "/some where/a-b");
    let said = said(&mut command);
    assert_eq!(said[0], "--test");
    assert!(
        said.contains(&"CARGO_BIN_EXE_a-b=/some where/a-b".to_owned()),
        "{said:?}"
    );
}

/// Else the image would be built without a profile, and nothing would say so.
#[test]
fn the_image_is_built_by_a_compiler_that_has_a_profile() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let tag = dockerfile.split_once("FROM rust:").unwrap().1;
    let version = tag.split_once('-').unwrap().0;
    let has_profile = fs::read_dir(root().join(".cargo/profile"))
        .unwrap()
        .any(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with(&format!("{version}-x86_64-unknown-linux-gnu-"))
        });
    assert!(has_profile, "none for Rust {version}");
}
