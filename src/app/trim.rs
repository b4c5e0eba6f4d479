//! Lets go of memory that only the start has needed.

use std::time::Duration;

/// By then what is done for the first time has been done: the first dial, the first commit.
const FIRST_STEPS: Duration = Duration::from_secs(3);

/// Lets go of what the start has needed, now and once more when the first steps are over.
pub(super) async fn after_the_start() {
    let_go_of_program();
    tokio::time::sleep(FIRST_STEPS).await;
    let_go_of_program();
}

/// Unmaps the pages of the program's own file: its code and its constants. What runs from here on is
/// mapped again as it is called, from the page cache and without reading the disk; arguments,
/// configuration, certificates and the making of tables, more than half of what is mapped by now, are
/// not needed again.
#[cfg(target_os = "linux")]
fn let_go_of_program() {
    // Where it cannot be told which pages they are, they stay.
    let _ = (|| {
        let program = std::fs::read_link("/proc/self/exe").ok()?;
        let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
        for (start, len) in clean(&maps, program.to_str()?) {
            unmap(start, len);
        }
        Some(())
    })();
}

#[cfg(not(target_os = "linux"))]
fn let_go_of_program() {}

/// Start and length of each mapping of `program` that cannot be written to and is as it is in the file.
/// What a debugger or a loader has written into it would be gone.
#[cfg(target_os = "linux")]
fn clean<'a>(maps: &'a str, program: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    let mut lines = maps.lines();
    std::iter::from_fn(move || {
        loop {
            let Some((start, len)) = read_only(lines.next()?, program) else {
                continue;
            };
            let dirty = lines.find_map(|line| line.strip_prefix("Private_Dirty:"))?;
            if dirty.trim() == "0 kB" {
                return Some((start, len));
            }
        }
    })
}

/// Start and length, if this is the first line of such a mapping.
#[cfg(target_os = "linux")]
fn read_only(line: &str, program: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, access) = (fields.next()?, fields.next()?);
    // The path is the sixth field and may hold spaces.
    if !matches!(access, "r-xp" | "r--p") || !line.ends_with(&format!(" {program}")) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some((start, end.checked_sub(start)?))
}

#[cfg(target_os = "linux")]
fn unmap(start: usize, len: usize) {
    let address = std::ptr::with_exposed_provenance_mut(start);
    #[expect(
        unsafe_code,
        reason = "the range is a private mapping of a file that nothing has written to, so each page is \
                  read again, with the same content, when it is needed (madvise(2), MADV_DONTNEED)"
    )]
    // A kernel that refuses keeps the pages, and nothing else changes.
    let _ = unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_go_of_is_read_only_and_as_in_the_file() {
        let mapping = |range: &str, access: &str, path: &str, dirty: u32| {
            format!(
                "{range} {access} 00000000 08:01 77 {path}\n\
                 Size:               2048 kB\n\
                 Private_Clean:       128 kB\n\
                 Private_Dirty:    {dirty:>6} kB\n\
                 VmFlags: rd ex mr mw me\n"
            )
        };
        let relay = "/opt/my relay/xi-relay";
        let maps = [
            mapping("55d0a0000000-55d0a0200000", "r--p", relay, 0),
            mapping("55d0a0200000-55d0a0d00000", "r-xp", relay, 0),
            mapping("55d0a0d00000-55d0a0d10000", "r-xp", relay, 4),
            mapping("55d0a0d10000-55d0a0e00000", "rw-p", relay, 32),
            mapping("7f0000000000-7f0000100000", "r-xp", "/lib/libc.so.6", 0),
            mapping("7f0000200000-7f0000300000", "r-xp", "[vdso]", 0),
        ]
        .concat();
        let found: Vec<_> = clean(&maps, relay).collect();
        let constants = (0x55d0_a000_0000, 0x20_0000);
        let code = (0x55d0_a020_0000, 0xb0_0000);
        assert_eq!(found, [constants, code]);
    }

    #[test]
    fn what_was_let_go_of_still_runs() {
        let_go_of_program();
        assert_eq!("12".parse(), Ok(12));
    }
}
