//! Lets go of memory that only the start has needed.

/// Unmaps the pages of the program's own code. What runs from here on is mapped again as it is
/// called, from the page cache and without reading the disk; arguments, configuration, certificates
/// and the making of tables, more than half of what is mapped by now, are not needed again.
#[cfg(target_os = "linux")]
pub(super) fn let_go_of_code() {
    // Where it cannot be told which pages they are, they stay.
    let _ = (|| {
        let program = std::fs::read_link("/proc/self/exe").ok()?;
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        for (start, len) in code(&maps, program.to_str()?) {
            unmap(start, len);
        }
        Some(())
    })();
}

#[cfg(not(target_os = "linux"))]
pub(super) fn let_go_of_code() {}

/// Start and length of each mapping of `program` that is code: readable, executable, and private,
/// which nothing has written to.
#[cfg(target_os = "linux")]
fn code<'a>(maps: &'a str, program: &'a str) -> impl Iterator<Item = (usize, usize)> + 'a {
    maps.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, access) = (fields.next()?, fields.next()?);
        // The path is the sixth field and may hold spaces.
        if access != "r-xp" || !line.ends_with(&format!(" {program}")) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        Some((start, end.checked_sub(start)?))
    })
}

#[cfg(target_os = "linux")]
fn unmap(start: usize, len: usize) {
    let address = std::ptr::with_exposed_provenance_mut(start);
    #[expect(
        unsafe_code,
        reason = "the range is a private mapping of a file that nothing writes to, so each page is \
                  read again, with the same content, when it is needed (madvise(2), MADV_DONTNEED)"
    )]
    // A kernel that refuses keeps the pages, and nothing else changes.
    let _ = unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_is_executable_of_the_program_itself() {
        let maps = "\
            55d0a0000000-55d0a0200000 r--p 00000000 08:01 77 /opt/my relay/xi-relay\n\
            55d0a0200000-55d0a0d00000 r-xp 00200000 08:01 77 /opt/my relay/xi-relay\n\
            55d0a0d00000-55d0a0e00000 rw-p 00d00000 08:01 77 /opt/my relay/xi-relay\n\
            7f0000000000-7f0000100000 r-xp 00000000 08:01 78 /lib/libc.so.6\n\
            7f0000200000-7f0000300000 r-xp 00000000 00:00 0 [vdso]\n";
        let found: Vec<_> = code(maps, "/opt/my relay/xi-relay").collect();
        assert_eq!(found, [(0x55d0_a020_0000, 0xb0_0000)]);
    }

    #[test]
    fn code_that_was_let_go_of_still_runs() {
        let_go_of_code();
        assert_eq!("12".parse(), Ok(12));
    }
}
