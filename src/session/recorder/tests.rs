#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::protocol::RECORDING_VERSION;

struct Studio {
    recordings: Arc<Recordings>,
    directory: TempDir,
}

fn studio(sessions: RecordedSessions) -> Studio {
    let directory = tempfile::tempdir().unwrap();
    let config = RecordingConfig {
        directory: Some(directory.path().join("new")),
        sessions,
    };
    Studio {
        recordings: Recordings::start(&config).unwrap().unwrap(),
        directory,
    }
}

pub(in super::super) fn head(session: SessionId) -> RecordingHead {
    RecordingHead {
        xi_relay_recording: RECORDING_VERSION,
        session: session.to_string(),
        endpoint: "stream-input".to_owned(),
        voice: "ada".to_owned(),
        query: String::new(),
        started_ms: 1,
    }
}

impl Studio {
    fn begin(&self, session: SessionId) -> Recorder {
        self.recordings
            .begin(true, session, Instant::now(), || head(session))
            .unwrap()
    }

    /// The names of the files that are left, once all is written.
    fn files(&self) -> Vec<String> {
        self.recordings.finish();
        let entries = fs::read_dir(self.directory.path().join("new")).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn lines(&self, session: SessionId) -> Vec<String> {
        assert_eq!(self.files(), [format!("{session}.jsonl")]);
        let path = self.directory.path().join(format!("new/{session}.jsonl"));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

#[test]
fn a_finished_session_is_a_file_of_all_that_crossed() {
    let (studio, session) = (studio(RecordedSessions::Plans), SessionId::random());
    let mut recorder = studio.begin(session);
    let now = recorder.started + std::time::Duration::from_millis(7);
    recorder.message(Side::Client, br#"{"text":"Hi "}"#, true, now);
    recorder.piece(b"{\"audio\":");
    recorder.piece(b"null}");
    recorder.end_of_pieces(true, &Secrets::default(), now);
    recorder.message(Side::Upstream, &[0, 255], false, now);
    let close = Close {
        code: Some(1000),
        reason: "bye".to_owned(),
    };
    recorder.close(Side::Upstream, &close, now);
    recorder.finish(&SessionEnd::Closed {
        by: Side::Upstream,
        close,
    });
    let lines = studio.lines(session);
    assert_eq!(
        serde_json::from_str::<RecordingHead>(&lines[0]).unwrap(),
        head(session)
    );
    assert_eq!(
        lines[1..],
        [
            r#"{"at_ms":7,"from":"client","kind":"text","data":"{\"text\":\"Hi \"}"}"#,
            r#"{"at_ms":7,"from":"upstream","kind":"text","data":"{\"audio\":null}"}"#,
            r#"{"at_ms":7,"from":"upstream","kind":"binary","data":"AP8="}"#,
            r#"{"at_ms":7,"from":"upstream","kind":"close","code":1000,"reason":"bye"}"#,
        ]
    );
    assert_eq!(
        studio.recordings.queue.queued_bytes.load(Ordering::Relaxed),
        0
    );
}

#[test]
fn what_came_in_pieces_is_written_down_without_secrets() {
    let (studio, session) = (studio(RecordedSessions::All), SessionId::random());
    let mut recorder = studio.begin(session);
    recorder.piece(b"a hush-");
    recorder.piece(b"hush");
    let secrets = Secrets::new(&["hush-hush".into()]);
    recorder.end_of_pieces(true, &secrets, recorder.started);
    recorder.finish(&SessionEnd::Lost(Side::Upstream));
    let lines = studio.lines(session);
    assert!(lines[1].ends_with(r#""data":"a ***"}"#), "{lines:?}");
    assert_eq!(
        studio.recordings.queue.queued_bytes.load(Ordering::Relaxed),
        0
    );
}

#[test]
fn a_peer_that_is_lost_is_written_down() {
    let (studio, session) = (studio(RecordedSessions::All), SessionId::random());
    studio
        .begin(session)
        .finish(&SessionEnd::Lost(Side::Upstream));
    let lines = studio.lines(session);
    assert!(
        lines[1].ends_with(r#""from":"upstream","kind":"lost"}"#),
        "{lines:?}"
    );
}

#[test]
fn only_sessions_that_are_asked_for_are_recorded() {
    let begin = |studio: &Studio, plan_records| {
        let session = SessionId::random();
        let begun = studio
            .recordings
            .begin(plan_records, session, Instant::now(), || head(session));
        begun.is_some()
    };
    let plans = studio(RecordedSessions::Plans);
    assert!(begin(&plans, true) && !begin(&plans, false));
    let all = studio(RecordedSessions::All);
    assert!(begin(&all, true) && begin(&all, false));
    assert!(
        Recordings::start(&RecordingConfig::default())
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_recording_that_does_not_fit_the_queue_is_given_up_whole() {
    let studio = studio(RecordedSessions::All);
    let (broken, whole) = (SessionId::random(), SessionId::random());
    let mut recorder = studio.begin(broken);
    recorder.message(Side::Client, b"kept", true, recorder.started);
    recorder.piece(b"a piece");
    recorder.message(
        Side::Upstream,
        &vec![b'x'; MAX_QUEUED_BYTES],
        true,
        recorder.started,
    );
    recorder.message(Side::Upstream, b"too late", true, recorder.started);
    recorder.finish(&SessionEnd::Lost(Side::Client));
    studio.begin(whole).finish(&SessionEnd::Lost(Side::Client));
    assert_eq!(studio.files(), [format!("{whole}.jsonl")]);
    assert_eq!(
        studio.recordings.queue.queued_bytes.load(Ordering::Relaxed),
        0
    );
}

#[test]
fn a_session_that_breaks_off_leaves_no_file() {
    let studio = studio(RecordedSessions::All);
    drop(studio.begin(SessionId::random()));
    assert_eq!(studio.files(), Vec::<String>::new());
}

#[test]
fn a_directory_that_cannot_be_made_is_said() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let directory = Some(file.path().join("below"));
    let config = RecordingConfig {
        directory,
        ..RecordingConfig::default()
    };
    assert!(Recordings::start(&config).is_err());
}
