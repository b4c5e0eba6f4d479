//! One suite for every store, and what only some of them can go through: death, silence, restarts.
//! Also the places that tests of `quota` keep their books in.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store::TokenKey;
use super::*;
use crate::ids::{ClientId, SessionId};

/// 2026-11-22T08:09:10Z
pub(crate) const NOW: i64 = 1_795_334_950_000;
pub(crate) const DAY_MS: i64 = 86_400_000;

/// Where books are kept during one test.
pub(crate) struct Place {
    pub(crate) config: Config,
    pub(crate) clock: WallClock,
    pub(crate) redis: Option<TestRedis>,
    _directory: Option<tempfile::TempDir>,
}

impl Place {
    pub(crate) fn memory() -> Self {
        Self::new(StoreUrl::Memory, None, None)
    }

    pub(crate) fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/with/it/books.db");
        Self::new(StoreUrl::Sqlite(path), None, Some(directory))
    }

    pub(crate) fn redis() -> Self {
        let redis = TestRedis::start();
        Self::new(redis.url().parse().unwrap(), Some(redis), None)
    }

    fn new(
        store: StoreUrl,
        redis: Option<TestRedis>,
        directory: Option<tempfile::TempDir>,
    ) -> Self {
        let config = Config {
            store,
            lease: Duration::from_millis(600),
            ..Config::default()
        };
        Self {
            config,
            clock: WallClock::standing_at(NOW),
            redis,
            _directory: directory,
        }
    }

    /// Opens the books as one more process would.
    pub(crate) async fn open(&self) -> Arc<Books> {
        open(&self.config, self.clock.clone(), Arc::default())
            .await
            .unwrap()
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        match &self.config.store {
            StoreUrl::Sqlite(path) => path.clone(),
            other => panic!("{other} is no file"),
        }
    }
}

/// A Redis server of the test's own, on a free port, with nothing on disk.
pub(crate) struct TestRedis {
    server: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl TestRedis {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut redis = Self {
            server: serve(port, directory.path()),
            port,
            directory,
        };
        // Another program may have taken the port between finding it and using it.
        if redis.answers() {
            redis
        } else {
            Self::start()
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/1", self.port)
    }

    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && self.server.try_wait().unwrap().is_none() {
            let client = ::redis::Client::open(self.url()).unwrap();
            if client.get_connection().is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.server.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub(crate) fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    /// Starts again on the same port, with nothing of what was there.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        self.server = serve(self.port, self.directory.path());
        assert!(
            self.answers(),
            "redis-server does not start again on port {}",
            self.port
        );
    }

    fn do_all(&self, command: &[&str]) {
        let mut connection = ::redis::Client::open(self.url())
            .unwrap()
            .get_connection()
            .unwrap();
        let mut sent = ::redis::cmd(command[0]);
        for argument in &command[1..] {
            sent.arg(argument);
        }
        let _: ::redis::Value = sent.query(&mut connection).unwrap();
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn serve(port: u16, directory: &std::path::Path) -> Child {
    Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .arg("--dir")
        .arg(directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("these tests need redis-server (7.x) in the PATH")
}

/// Waits until `ready` says so, for at most 10 s.
pub(crate) async fn until(what: &str, mut ready: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !ready().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn client(name: &str) -> ClientId {
    ClientId::parse(name).unwrap()
}

pub(crate) fn row(client: &ClientId, session: SessionId, started_ms: i64) -> LedgerRow {
    LedgerRow {
        session,
        client: client.clone(),
        plan: "default".into(),
        endpoint: "stream-input",
        voice: "voice".into(),
        model: "model".into(),
        format: "mp3_44100_128".into(),
        started_ms,
        ended_ms: started_ms + 5000,
        characters_asked: 120,
        characters_forwarded: 100,
        characters_refused: 20,
        milli_credits: 50_000,
        audio_ms: 1500,
        messages_up: 3,
        messages_down: 7,
        bytes_up: 300,
        bytes_down: 70_000,
        first_audio_ms: Some(250),
        ending: "completed".into(),
        close_code: 1000,
        trace_id: Some("trace".to_owned()),
    }
}

fn opening(client: &ClientId) -> Arc<Opening> {
    Arc::new(Opening {
        session: SessionId::random(),
        client: client.clone(),
        plan: "default".into(),
        endpoint: "stream-input",
        voice: "voice".into(),
        model: "model".into(),
        format: "mp3_44100_128".into(),
        started_ms: NOW,
        milli_rate: 500,
    })
}

fn charge(unit: Unit, per: Per, now_ms: i64, limit: u64, each: u64) -> Charge {
    Charge {
        key: WindowKey::at(unit, per, now_ms),
        limit,
        each,
    }
}

fn admit(opening: &Arc<Opening>) -> Admit {
    Admit {
        opening: opening.clone(),
        max_concurrent: 100,
        starts: Vec::new(),
        spending: Vec::new(),
        even_if_spent: false,
        ahead: 0,
    }
}

fn reserve(opening: &Opening, charges: &[Charge], need: u64, ahead: u64) -> Reserve {
    Reserve {
        seat: opening.session,
        client: opening.client.clone(),
        charges: charges.into(),
        need,
        ahead,
        adjust: Vec::new(),
        call_in: false,
    }
}

async fn starts_are_counted_and_slots_are_freed(place: Place) {
    let books = place.open().await;
    let anna = client("anna");
    let ask = |client: &ClientId| Admit {
        max_concurrent: 2,
        starts: vec![charge(Unit::Sessions, Per::Day, NOW, 3, 1)],
        ..admit(&opening(client))
    };
    let first = ask(&anna);
    let granted = Admitted::Granted { ahead: 0 };
    assert_eq!(books.admit(&first).await.unwrap().0, granted);
    assert_eq!(books.admit(&ask(&anna)).await.unwrap().0, granted);
    assert_eq!(
        books.admit(&ask(&anna)).await.unwrap().0,
        Admitted::Busy { live: 2 }
    );
    assert_eq!(books.admit(&ask(&client("ben"))).await.unwrap().0, granted);
    let record = Record::new(row(&anna, first.opening.session, NOW), Outcome::Ended);
    books
        .settle(Settle::new(anna.clone(), first.opening.session, record))
        .await;
    assert_eq!(books.admit(&ask(&anna)).await.unwrap().0, granted);
    assert_eq!(
        books
            .admit(&Admit {
                max_concurrent: 9,
                ..ask(&anna)
            })
            .await
            .unwrap()
            .0,
        Admitted::Spent {
            window: first.starts[0].key,
            used: 3
        },
    );
}

async fn windows_are_charged_all_or_none(place: Place) {
    let books = place.open().await;
    let opening = opening(&client("anna"));
    let (_, live) = books.admit(&admit(&opening)).await.unwrap();
    let charges = [
        charge(Unit::Characters, Per::Minute, NOW, 100, 1),
        charge(Unit::Credits, Per::Month, NOW, 40_000, 500),
    ];
    let keys = charges.map(|charge| charge.key);
    let granted = books
        .reserve(&live, &reserve(&opening, &charges, 60, 0))
        .await
        .unwrap();
    assert_eq!(granted, Reserved::Granted(60));
    let refused = books
        .reserve(&live, &reserve(&opening, &charges, 21, 0))
        .await
        .unwrap();
    assert_eq!(
        refused,
        Reserved::Short {
            window: 1,
            used: vec![60, 30_000]
        }
    );
    assert_eq!(
        books.used(&opening.client, &keys).await.unwrap(),
        [60, 30_000]
    );
    let adjust = vec![Adjust {
        seat: opening.session,
        characters: -10,
        amounts: vec![(keys[0], -10), (keys[1], -5000)],
    }];
    let with_adjust = Reserve {
        adjust,
        ..reserve(&opening, &charges, 21, 0)
    };
    assert_eq!(
        books.reserve(&live, &with_adjust).await.unwrap(),
        Reserved::Granted(21)
    );
    assert_eq!(
        books.used(&opening.client, &keys).await.unwrap(),
        [71, 35_500]
    );
    let most = i64::from(u32::MAX);
    let too_much = Adjust {
        seat: opening.session,
        characters: -most,
        amounts: vec![(keys[0], -most)],
    };
    books.give_back(&opening.client, &[too_much]).await.unwrap();
    assert_eq!(
        books.used(&opening.client, &keys).await.unwrap(),
        [0, 35_500]
    );
}

async fn blocks_shrink_with_what_is_left(place: Place) {
    let books = place.open().await;
    let anna = client("anna");
    let charges = [charge(Unit::Characters, Per::Day, NOW, 32_000, 1)];
    let opening = opening(&anna);
    let ask = Admit {
        spending: charges.to_vec(),
        ahead: 1000,
        ..admit(&opening)
    };
    let (admitted, live) = books.admit(&ask).await.unwrap();
    // Of those who start first, each sees fewer sharers than there will be.
    assert_eq!(admitted, Admitted::Granted { ahead: 125 });
    let mut granted = 0;
    loop {
        match books
            .reserve(&live, &reserve(&opening, &charges, 10, 1000))
            .await
            .unwrap()
        {
            Reserved::Granted(more) => {
                let left = 31_875 - granted;
                assert_eq!(more, 10 + ((left - 10) / 32).min(1000));
                granted += more;
            }
            Reserved::Short { used, .. } => {
                assert_eq!(used, [125 + granted]);
                assert!(31_875 - granted < 10, "{granted}");
                break;
            }
        }
    }
    let spent = Admit {
        spending: charges.to_vec(),
        ..admit(&super::suite::opening(&anna))
    };
    let room = 31_875 - granted;
    let admitted = books.admit(&spent).await.unwrap().0;
    assert_eq!(matches!(admitted, Admitted::Spent { .. }), room == 0);
}

async fn a_clock_that_jumps_opens_each_window_once(place: Place) {
    let books = place.open().await;
    let opening = opening(&client("anna"));
    let (_, live) = books.admit(&admit(&opening)).await.unwrap();
    let spend = async |now_ms: i64, per: Per| {
        let charges = [charge(Unit::Characters, per, now_ms, 10, 1)];
        books
            .reserve(&live, &reserve(&opening, &charges, 10, 0))
            .await
            .unwrap()
            == Reserved::Granted(10)
    };
    assert!(spend(NOW, Per::Day).await);
    assert!(spend(NOW + DAY_MS, Per::Day).await, "the next day");
    assert!(!spend(NOW, Per::Day).await, "and back");
    assert!(!spend(NOW + DAY_MS, Per::Day).await);
    // More windows than are kept: going back behind them all gives nothing either.
    for minute in 0..70 {
        assert!(spend(NOW + minute * 60_000, Per::Minute).await);
    }
    for minute in 0..70 {
        assert!(!spend(NOW + minute * 60_000, Per::Minute).await, "{minute}");
    }
    assert!(!spend(NOW - 60_000, Per::Minute).await);
}

async fn the_ledger_keeps_every_row_once(place: Place) {
    let books = place.open().await;
    let anna = client("anna");
    let opening = opening(&anna);
    books.admit(&admit(&opening)).await.unwrap();
    let ended = Record::new(row(&anna, opening.session, NOW), Outcome::Ended);
    let settle = Settle::new(anna.clone(), opening.session, ended.clone());
    books.settle(settle.clone()).await;
    books.settle(settle).await;
    let other = SessionId::random();
    let mut refused = Record::new(row(&anna, other, NOW + DAY_MS), Outcome::Refused);
    refused.first_audio_ms = None;
    refused.trace_id = None;
    refused.characters_forwarded = 0;
    refused.voice = "odd \"voice\" [\u{e9}]".into();
    books.settle_later(Settle::new(anna.clone(), other, refused.clone()));
    until("both rows are entered", async || {
        books.recent(10).await.unwrap().len() == 2
    })
    .await;
    let rows = books.recent(10).await.unwrap();
    assert_eq!(rows, [refused.clone(), ended]);

    let usage = books.usage(&Query::default()).await.unwrap();
    let shown: Vec<_> = usage
        .iter()
        .map(|row| {
            (
                row.day.unwrap().to_string(),
                row.sessions,
                row.refused,
                row.characters,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("2026-11-22".to_owned(), 1, 0, 100),
            ("2026-11-23".to_owned(), 0, 1, 0)
        ]
    );
    assert_eq!(usage[1].voice.as_deref(), Some(&*refused.voice));
    assert!((usage[0].credits - 50.0).abs() < 1e-9 && (usage[0].audio_seconds - 1.5).abs() < 1e-9);
    let by = GroupBy {
        day: false,
        model: false,
        voice: false,
    };
    let all = books
        .usage(&Query {
            by,
            ..Query::default()
        })
        .await
        .unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].sessions, all[0].refused, all[0].characters_asked),
        (1, 1, 240)
    );
    let until = Query {
        until: Some("2026-11-23".parse().unwrap()),
        ..Query::default()
    };
    assert_eq!(books.usage(&until).await.unwrap().len(), 1);
    let other = Query {
        client: Some(client("ben")),
        ..Query::default()
    };
    assert!(books.usage(&other).await.unwrap().is_empty());
    let json = serde_json::to_value(&usage[0]).unwrap();
    assert_eq!(
        (&json["client"], &json["day"]),
        (&"anna".into(), &"2026-11-22".into())
    );
}

async fn live_sessions_show_in_usage(place: Place) {
    let books = place.open().await;
    books
        .admit(&admit(&opening(&client("anna"))))
        .await
        .unwrap();
    let usage = books.usage(&Query::default()).await.unwrap();
    assert_eq!(
        (usage[0].sessions, usage[0].live, usage[0].characters),
        (1, 1, 0)
    );
}

async fn old_rows_go_away(place: Place) {
    let books = place.open().await;
    let anna = client("anna");
    // Redis numbers rows by its own clock; what is old there is older than anything a test enters.
    for age in [501, 500, 0] {
        let started = NOW - age * DAY_MS;
        let session = SessionId::random();
        let record = Record::new(row(&anna, session, started), Outcome::Ended);
        books
            .settle(Settle::new(anna.clone(), session, record))
            .await;
    }
    let store = books.store_for_tests();
    while store.prune(NOW - 400 * DAY_MS).await.unwrap() > 0 {}
    let usage = books.usage(&Query::default()).await.unwrap();
    assert_eq!(usage.len(), 1);
    assert_eq!(usage[0].day.unwrap(), Day::of_ms(NOW));
    if !books.is_shared() {
        assert_eq!(books.recent(10).await.unwrap().len(), 1);
    }
}

async fn a_token_is_taken_once(place: Place) {
    let books = place.open().await;
    let key = |byte: u8| TokenKey([byte; 32]);
    let minute = Duration::from_secs(60);
    books.put_token(key(1), "{\"a\":1}", minute).await.unwrap();
    let takers = (0..8).map(|_| {
        let books = books.clone();
        tokio::spawn(async move { books.take_token(key(1)).await.unwrap() })
    });
    let mut taken = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        taken.extend(taker.await.unwrap());
    }
    assert_eq!(taken, ["{\"a\":1}"]);
    books.put_token(key(2), "x", minute).await.unwrap();
    books.revoke(key(2), minute).await.unwrap();
    assert_eq!(books.take_token(key(2)).await.unwrap(), None);
    assert_eq!(books.revoked().await.unwrap(), [key(2)]);
    assert_eq!(books.take_token(key(3)).await.unwrap(), None);
}

macro_rules! for_every_store {
    ($($test:ident)*) => {
        mod memory { $(#[tokio::test] async fn $test() { super::$test(super::Place::memory()).await })* }
        mod sqlite { $(#[tokio::test] async fn $test() { super::$test(super::Place::sqlite()).await })* }
        mod redis { $(#[tokio::test] async fn $test() { super::$test(super::Place::redis()).await })* }
    };
}

for_every_store! {
    starts_are_counted_and_slots_are_freed
    windows_are_charged_all_or_none
    blocks_shrink_with_what_is_left
    a_clock_that_jumps_opens_each_window_once
    the_ledger_keeps_every_row_once
    live_sessions_show_in_usage
    old_rows_go_away
    a_token_is_taken_once
}

async fn a_token_is_revoked_beside_open_books(place: Place) {
    let key = |n: u8| TokenKey([n; 32]);
    let books = place.open().await;
    let (minute, long) = (
        Duration::from_secs(60),
        Duration::from_secs(1000 * 24 * 60 * 60),
    );
    books.put_token(key(1), "x", minute).await.unwrap();
    assert!(revoke(&place.config, key(1), long).await.unwrap());
    assert!(!revoke(&place.config, key(2), long).await.unwrap());
    assert_eq!(books.take_token(key(1)).await.unwrap(), None);
    let mut revoked = books.revoked().await.unwrap();
    revoked.sort();
    assert_eq!(revoked, [key(1), key(2)]);
}

#[tokio::test]
async fn a_command_revokes_in_sqlite() {
    a_token_is_revoked_beside_open_books(Place::sqlite()).await;
}

#[tokio::test]
async fn a_command_revokes_in_redis() {
    a_token_is_revoked_beside_open_books(Place::redis()).await;
}

#[tokio::test]
async fn a_command_cannot_revoke_in_memory() {
    let error = revoke(
        &Place::memory().config,
        TokenKey([1; 32]),
        Duration::from_secs(1),
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("/tokens/revoke"), "{error}");
}

/// Runs `work` in a process of its own, as far as the books can tell, and kills it.
fn in_a_process_that_dies<T>(work: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(1)
        .build();
    let runtime = runtime.unwrap();
    let value = runtime.block_on(work());
    // Nothing that is still under way gets any further.
    runtime.shutdown_background();
    value
}

/// A process dies with two sessions of a client whose plan allows two.
fn the_dead_are_entered_as_lost(place: &Place) {
    let anna = client("anna");
    let charges = [charge(Unit::Characters, Per::Day, NOW, 1000, 1)];
    let ask = |opening: &Arc<Opening>| Admit {
        max_concurrent: 2,
        spending: charges.to_vec(),
        ..admit(opening)
    };
    let kept = in_a_process_that_dies(async || {
        let books = place.open().await;
        for _ in 0..2 {
            let opening = opening(&anna);
            let (_, live) = books.admit(&ask(&opening)).await.unwrap();
            let granted = books
                .reserve(&live, &reserve(&opening, &charges, 100, 0))
                .await
                .unwrap();
            assert_eq!(granted, Reserved::Granted(100));
        }
        books
    });
    let died = Instant::now();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let books = place.open().await;
        let next = opening(&anna);
        until("the slots are free", async || {
            // A dead process's wall clock stands still in tests; the living one's goes on.
            if !books.is_shared() {
                place
                    .clock
                    .set(NOW + i64::try_from(died.elapsed().as_millis()).unwrap());
            }
            matches!(
                books.admit(&ask(&next)).await.unwrap().0,
                Admitted::Granted { .. }
            )
        })
        .await;
        assert!(
            died.elapsed() < Duration::from_secs(2),
            "{:?}",
            died.elapsed()
        );
        until("they are entered", async || {
            books.recent(9).await.unwrap().len() == 2
        })
        .await;
        for record in books.recent(9).await.unwrap() {
            assert_eq!(
                (record.outcome, record.characters_forwarded),
                (Outcome::Lost, 100)
            );
            assert_eq!((record.milli_credits, &*record.ending), (50_000, "lost"));
        }
        let usage = books.usage(&Query::default()).await.unwrap();
        assert_eq!(
            (usage[0].sessions, usage[0].lost, usage[0].characters),
            (3, 2, 200)
        );
        let used = books.used(&anna, &[charges[0].key]).await.unwrap();
        assert_eq!(used, [200], "what the dead had reserved counts as spent");

        // One of them was not dead after all, only cut off, and ends.
        let lost = books.recent(1).await.unwrap().remove(0);
        let session = SessionId::parse(&lost.session).unwrap();
        let mut record = Record::new(row(&anna, session, NOW), Outcome::Ended);
        record.characters_forwarded = 40;
        let amounts = vec![(charges[0].key, -60)];
        let adjust = vec![Adjust {
            seat: session,
            characters: -60,
            amounts,
        }];
        let settle = Settle::new(anna.clone(), session, record);
        books.settle(Settle { adjust, ..settle }).await;
        let usage = books.usage(&Query::default()).await.unwrap();
        assert_eq!(
            (usage[0].sessions, usage[0].lost, usage[0].characters),
            (3, 1, 140)
        );
        assert_eq!(books.used(&anna, &[charges[0].key]).await.unwrap(), [140]);
    });
    drop(kept);
}

#[test]
fn sqlite_enters_the_dead_as_lost_when_their_lease_runs_out() {
    the_dead_are_entered_as_lost(&Place::sqlite());
}

#[test]
fn redis_enters_the_dead_as_lost_when_their_lease_runs_out() {
    the_dead_are_entered_as_lost(&Place::redis());
}

#[tokio::test]
async fn sqlite_waits_for_no_lease_when_nobody_else_has_the_file() {
    let mut place = Place::sqlite();
    place.config.lease = Duration::from_secs(3600);
    let books = place.open().await;
    let opening = opening(&client("anna"));
    books.admit(&admit(&opening)).await.unwrap();
    let (weak, path) = (Arc::downgrade(&books), place.path());
    drop(books);
    until("the first process is gone", async || {
        weak.upgrade().is_none()
    })
    .await;
    let books = place.open().await;
    assert_eq!(books.recent(9).await.unwrap()[0].outcome, Outcome::Lost);
    // While it lives, another process must not take its sessions for lost.
    books
        .admit(&admit(&super::suite::opening(&client("anna"))))
        .await
        .unwrap();
    let second = place.open().await;
    assert_eq!(second.recent(9).await.unwrap().len(), 1);
    assert_eq!(second.usage(&Query::default()).await.unwrap()[0].live, 1);
    #[cfg(unix)]
    for path in [
        path.clone(),
        path.with_extension("db-wal"),
        path.with_extension("db-owner"),
    ] {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{path:?}"
        );
    }
}

#[tokio::test]
async fn sqlite_says_in_one_line_why_it_cannot_be_opened() {
    let place = Place::sqlite();
    let path = place.path();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(
        &path,
        "this is not a database, and long enough to be looked at as one",
    )
    .unwrap();
    let error = open(&place.config, place.clock.clone(), Arc::default())
        .await
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        text.contains("not a database") && text.contains("put a good copy"),
        "{text}"
    );
    assert!(!text.contains('\n'));

    std::fs::remove_file(&path).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    let error = open(&place.config, place.clock.clone(), Arc::default())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("schema version 99"), "{error}");

    let config = Config {
        store: StoreUrl::Sqlite("/proc/none/books.db".into()),
        ..place.config.clone()
    };
    let error = open(&config, place.clock.clone(), Arc::default())
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("name another path"), "{error}");
}

/// Slots are counted by triggers that the first version did not have.
#[tokio::test]
async fn a_file_of_the_first_version_is_taken_over() {
    let place = Place::sqlite();
    let path = place.path();
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(include_str!("sqlite/v1.sql")).unwrap();
    db.pragma_update(None, "user_version", 1).unwrap();
    let lost = opening(&client("anna"));
    let record = serde_json::to_string(&Record::opened(&lost)).unwrap();
    db.execute(
        "INSERT INTO live VALUES (?1, 'anna', 'the dead', 30, ?2)",
        [lost.session.to_string(), record],
    )
    .unwrap();
    drop(db);
    let books = place.open().await;
    let rows = books.recent(10).await.unwrap();
    assert_eq!(rows[0].session, lost.session.to_string());
    assert_eq!(rows[0].outcome, Outcome::Lost);
    // The dead session's slot is free: as many as allowed fit in, and no more.
    for n in 0..3 {
        let ask = Admit {
            max_concurrent: 2,
            ..admit(&opening(&client("anna")))
        };
        let (admitted, _) = books.admit(&ask).await.unwrap();
        assert_eq!(matches!(admitted, Admitted::Busy { live: 2 }), n == 2);
    }
}

#[tokio::test]
async fn books_can_be_read_beside_a_running_relay() {
    for place in [Place::sqlite(), Place::redis()] {
        let books = place.open().await;
        let anna = client("anna");
        books.settle(ended(&anna, SessionId::random())).await;
        // A settlement is written a moment after it is accepted; the books themselves wait for it.
        assert_eq!(books.recent(1).await.unwrap().len(), 1);
        let reader = open_reader(&place.config).await.unwrap();
        assert_eq!(
            reader.usage(&Query::default()).await.unwrap()[0].characters,
            100
        );
        assert_eq!(reader.recent(5).await.unwrap().len(), 1);
    }
    assert!(open_reader(&Place::memory().config).await.is_err());
    assert!(
        open_reader(&Config {
            store: StoreUrl::Sqlite("/no/such.db".into()),
            ..Config::default()
        })
        .await
        .is_err()
    );
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_is_given_what_is_known() {
    let mut place = Place::redis();
    let books = place.open().await;
    let opening = opening(&client("anna"));
    let (_, live) = books.admit(&admit(&opening)).await.unwrap();
    let charges = [charge(Unit::Characters, Per::Day, NOW, 1000, 1)];
    let ask = reserve(&opening, &charges, 900, 0);
    assert_eq!(
        books.reserve(&live, &ask).await.unwrap(),
        Reserved::Granted(900)
    );
    let emptied = || {
        books
            .counters()
            .emptied
            .load(std::sync::atomic::Ordering::Relaxed)
    };

    place.redis.as_ref().unwrap().do_all(&["FLUSHALL"]);
    let short = Reserved::Short {
        window: 0,
        used: vec![900],
    };
    let ask = reserve(&opening, &charges, 101, 0);
    assert_eq!(books.reserve(&live, &ask).await.unwrap(), short);
    assert_eq!(emptied(), 1);

    place.redis.as_mut().unwrap().restart_empty();
    until("the books are open again", async || {
        books.reserve(&live, &ask).await.is_ok()
    })
    .await;
    assert_eq!(books.reserve(&live, &ask).await.unwrap(), short);
    assert_eq!(emptied(), 2);
    let usage = books.usage(&Query::default()).await.unwrap();
    assert_eq!(usage[0].live, 1, "the live session is known again");
}

#[tokio::test]
async fn redis_that_is_away_at_the_start_is_waited_for() {
    let mut place = Place::redis();
    place.redis.as_mut().unwrap().kill();
    let books = place.open().await;
    assert!(!books.is_up());
    place.redis.as_mut().unwrap().restart_after_kill();
    until("the books open", async || books.is_up()).await;
}

impl TestRedis {
    fn restart_after_kill(&mut self) {
        self.server = serve(self.port, self.directory.path());
        assert!(self.answers());
    }
}

#[tokio::test]
async fn a_wrong_redis_password_is_told_at_once() {
    let place = Place::redis();
    place
        .redis
        .as_ref()
        .unwrap()
        .do_all(&["CONFIG", "SET", "requirepass", "right"]);
    let error = open(&place.config, place.clock.clone(), Arc::default())
        .await
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("correct user, password"),
        "{error}"
    );
    let right = Some("right".to_owned().into());
    let config = Config {
        redis_password: right,
        ..place.config.clone()
    };
    assert!(
        open(&config, place.clock.clone(), Arc::default())
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_month_of_a_large_ledger_is_read_from_its_sums() {
    let place = Place::sqlite();
    let books = place.open().await;
    let db = rusqlite::Connection::open(place.path()).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    // Without a single row in the ledger.
    let insert = format!(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 449) \
         INSERT INTO daily SELECT {NOW} / {DAY_MS} - i / 15, 'client' || (i % 5), 'm', \
         'v' || (i % 3), 1000, 0, 0, 10000, 10000, 0, 10000, 0, 1, 1, 1, 1 FROM n"
    );
    db.execute_batch(&insert).unwrap();
    let usage = books.usage(&Query::default()).await.unwrap();
    assert_eq!(usage.len(), 450);
    assert_eq!(usage.iter().map(|row| row.sessions).sum::<u64>(), 450_000);
    assert_eq!(
        usage.iter().map(|row| row.characters).sum::<u64>(),
        4_500_000
    );
    let plan: String = db
        .query_row(
            "EXPLAIN QUERY PLAN SELECT * FROM daily WHERE day >= 1 AND day < 2",
            [],
            |row| row.get(3),
        )
        .unwrap();
    assert!(plan.contains("PRIMARY KEY"), "{plan}");
}

fn ended(client: &ClientId, session: SessionId) -> Settle {
    let record = Record::new(row(client, session, NOW), Outcome::Ended);
    Settle::new(client.clone(), session, record)
}

/// A store may have done what it did not answer in time.
#[tokio::test]
async fn a_seat_is_given_up_once() {
    for place in [Place::memory(), Place::sqlite()] {
        let (books, anna) = (place.open().await, client("anna"));
        let day = charge(Unit::Characters, Per::Day, NOW, 1_000_000, 1);
        let opening = opening(&anna);
        let asked = Admit {
            spending: vec![day],
            ahead: 500,
            ..admit(&opening)
        };
        let (admitted, _) = books.admit(&asked).await.unwrap();
        assert_eq!(admitted, Admitted::Granted { ahead: 500 });
        let used = async || books.used(&anna, &[day.key]).await.unwrap()[0];
        assert_eq!(used().await, 500);
        let given_up = Settle {
            client: anna.clone(),
            seat: opening.session,
            keeps_seat: false,
            record: None,
            adjust: vec![Adjust {
                seat: opening.session,
                characters: -200,
                amounts: vec![(day.key, -200)],
            }],
        };
        for _ in 0..2 {
            books.store_for_tests().settle(&given_up).await.unwrap();
            assert_eq!(used().await, 300);
        }
    }
}

#[tokio::test]
async fn who_sits_in_a_kept_seat_is_made_known_again() {
    for place in [Place::memory(), Place::sqlite()] {
        let (books, anna) = (place.open().await, client("anna"));
        let (first, next) = (opening(&anna), opening(&anna));
        books.admit(&admit(&first)).await.unwrap();
        let left = Settle {
            keeps_seat: true,
            ..ended(&anna, first.session)
        };
        let store = books.store_for_tests();
        store.settle(&left).await.unwrap();
        let n_live = async || books.usage(&Query::default()).await.unwrap()[0].live;
        assert_eq!(n_live().await, 0);
        // As if the next one's name had not come through.
        let seated = Readopt {
            seat: first.session,
            opening: Arc::clone(&next),
            reserved: 0,
        };
        store.readopt(&[seated]).await.unwrap();
        assert_eq!(n_live().await, 1);
    }
}

/// A process that had been taken for dead makes its sessions known again while they end.
async fn an_ended_session_is_not_readopted(place: Place) {
    let (books, anna) = (place.open().await, client("anna"));
    let first = opening(&anna);
    books.admit(&admit(&first)).await.unwrap();
    books.settle(ended(&anna, first.session)).await;
    let store = books.store_for_tests();
    let again = Readopt {
        seat: first.session,
        opening: first,
        reserved: 0,
    };
    store.readopt(&[again]).await.unwrap();
    let ask = Admit {
        max_concurrent: 1,
        ..admit(&opening(&anna))
    };
    let (admitted, _) = books.admit(&ask).await.unwrap();
    assert!(
        matches!(admitted, Admitted::Granted { .. }),
        "{admitted:?}: the slot must be free"
    );
}

#[tokio::test]
async fn sqlite_does_not_readopt_what_has_ended() {
    an_ended_session_is_not_readopted(Place::sqlite()).await;
}

#[tokio::test]
async fn redis_does_not_readopt_what_has_ended() {
    an_ended_session_is_not_readopted(Place::redis()).await;
}

/// Books with a session that is let in, what ends it, and a lock on their file.
async fn locked(place: &Place) -> (Arc<Books>, Settle, rusqlite::Connection) {
    let (books, anna) = (place.open().await, client("anna"));
    let last = opening(&anna);
    books.admit(&admit(&last)).await.unwrap();
    let lock = rusqlite::Connection::open(place.path()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    (books, ended(&anna, last.session), lock)
}

fn unlock_after(lock: rusqlite::Connection, time: Duration) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(time);
        lock.execute_batch("COMMIT").unwrap();
    })
}

/// What another process would find in the file.
fn count(place: &Place, rows: &str) -> i64 {
    let db = rusqlite::Connection::open(place.path()).unwrap();
    db.query_row(&format!("SELECT count(*) FROM {rows}"), [], |row| {
        row.get(0)
    })
    .unwrap()
}

const ENDED: &str = "ledger WHERE outcome = 'ended'";
const LEASES: &str = "owners WHERE expires_ms > 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_a_locked_file() {
    let place = Place::sqlite();
    let (books, end, lock) = locked(&place).await;
    let unlock = unlock_after(lock, Duration::from_millis(700));
    books.settle(end).await;
    books.close().await;
    // The process would be gone now.
    assert_eq!(count(&place, ENDED), 1);
    assert_eq!(count(&place, LEASES), 0, "the lease has ended");
    unlock.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_what_the_store_has_not_decided() {
    let place = Place::sqlite();
    let (books, end, lock) = locked(&place).await;
    // Behind a request that fails, so that the store is known to be down before the row is.
    let (beat, ()) = tokio::join!(biased; books.beat_for_tests(), books.settle(end));
    beat.unwrap_err();
    let unlock = unlock_after(lock, Duration::from_millis(400));
    books.close().await;
    assert_eq!(count(&place, ENDED), 1);
    unlock.join().unwrap();
}

#[tokio::test]
async fn a_heartbeat_that_comes_late_begins_no_new_lease() {
    let place = Place::sqlite();
    let books = place.open().await;
    assert_eq!(count(&place, LEASES), 1);
    // One that is sent right behind the end, and one after it.
    let ((), beside) = tokio::join!(biased; books.close(), books.beat_for_tests());
    beside.unwrap_err();
    books.beat_for_tests().await.unwrap_err();
    assert_eq!(count(&place, LEASES), 0);
}
