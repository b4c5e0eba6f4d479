#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::*;
use crate::usage::suite::{DAY_MS, NOW, Place, client, row, until};
use crate::usage::{OnStoreFailure, Per, Query, WallClock};

fn limits(text: &str) -> Arc<Limits> {
    Arc::new(Limits::new("default", &toml::from_str(text).unwrap()).unwrap())
}

fn per_day(limit: u64) -> Arc<Limits> {
    limits(&format!(
        "max_concurrent_sessions = 100\n\
         windows = [{{ unit = \"characters\", limit = {limit}, per = \"day\" }}]"
    ))
}

fn request(limits: &Arc<Limits>) -> AdmissionRequest {
    AdmissionRequest {
        client: client("anna"),
        limits: limits.clone(),
        session: SessionId::random(),
        voice: None,
        model: "eleven_flash_v2_5".into(),
        format: "mp3_44100_128".into(),
        endpoint: "stream-input",
        cap: None,
        streaming: true,
    }
}

async fn quota(place: &Place) -> Quota {
    Quota::new(place.open().await, Rates::default())
}

async fn settle(admission: Admission) {
    let mut row = row(
        &client("anna"),
        admission.opening.session,
        admission.started_ms(),
    );
    row.voice = "".into();
    row.model = admission.opening.model.clone();
    admission.settle(row).await;
}

/// What the window's counter shows, straight from the store.
async fn used(quota: &Quota, per: Per, now_ms: i64) -> u64 {
    let key = WindowKey::at(Unit::Characters, per, now_ms);
    quota.books().used(&client("anna"), &[key]).await.unwrap()[0]
}

/// Sends messages of `size` until one is refused, then ends. Returns what was forwarded.
async fn speak(mut admission: Admission, n: usize, size: u64) -> (u64, Option<Refusal>) {
    let mut refused = None;
    for _ in 0..n {
        if let Err(refusal) = admission.charge(size).await {
            refused = Some(refusal);
            break;
        }
        tokio::task::yield_now().await;
    }
    let forwarded = admission.charged();
    settle(admission).await;
    (forwarded, refused)
}

async fn many_sessions_forward_exactly_what_fits(place: Place) {
    let quota = quota(&place).await;
    let plan = per_day(10_000);
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (quota, plan) = (quota.clone(), plan.clone());
        sessions.spawn(async move {
            let mut admission = quota.admit(request(&plan)).await.unwrap();
            let mut refused = 0;
            for _ in 0..500 {
                if let Err(refusal) = admission.charge(7).await {
                    assert_eq!(refusal.error(), "quota_exceeded");
                    refused += 1;
                }
            }
            let forwarded = admission.charged();
            settle(admission).await;
            (forwarded, refused)
        });
    }
    let (mut forwarded, mut refused) = (0, 0);
    for (sent, not) in sessions.join_all().await {
        forwarded += sent;
        refused += not;
    }
    assert_eq!((forwarded, refused), (9_996, 16 * 500 - 1428));
    assert_eq!(used(&quota, Per::Day, NOW).await, 9_996);
    let usage = quota.books().usage(&Query::default()).await.unwrap();
    assert_eq!((usage[0].sessions, usage[0].characters), (16, 9_996));
}

async fn idle_siblings_strand_nothing(place: Place) {
    let quota = quota(&place).await;
    let plan = per_day(10_000);
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(quota.admit(request(&plan)).await.unwrap());
    }
    assert!(quota.reserved_ahead() > 50);
    let speaker = quota.admit(request(&plan)).await.unwrap();
    let (forwarded, refusal) = speak(speaker, 10_000, 7).await;
    assert_eq!(forwarded, 9_996);
    let Some(Refusal::Window {
        limit,
        used,
        asked,
        resets_at,
        ..
    }) = refusal
    else {
        panic!()
    };
    assert_eq!((limit, used, asked), (10_000, 9_996, 7));
    assert_eq!(resets_at, Per::Day.span(NOW).1);
    for admission in &mut idle {
        assert_eq!(
            admission.charge(5).await.unwrap_err().error(),
            "quota_exceeded"
        );
    }
    assert_eq!(idle[0].charge(4).await, Ok(()));
}

async fn what_is_unspent_goes_back(place: Place) {
    let quota = quota(&place).await;
    let plan = per_day(100_000);
    let mut admission = quota.admit(request(&plan)).await.unwrap();
    assert_eq!(
        admission.try_charge(10),
        Some(Ok(())),
        "the first block comes with the admission"
    );
    assert!(used(&quota, Per::Day, NOW).await > 50);
    settle(admission).await;
    assert_eq!(used(&quota, Per::Day, NOW).await, 10);

    let mut dropped = quota.admit(request(&plan)).await.unwrap();
    dropped.charge(5000).await.unwrap();
    drop(dropped);
    until("the slot is free", async || {
        quota.live_sessions().is_empty()
    })
    .await;
    assert_eq!(used(&quota, Per::Day, NOW).await, 5010);
    let rows = quota.books().recent(2).await.unwrap();
    assert_eq!(
        (&*rows[0].ending, rows[0].characters_forwarded),
        ("abandoned", 5000)
    );
    assert_eq!(
        (rows[1].characters_forwarded, rows[1].milli_credits),
        (10, 5000)
    );
}

async fn a_reservation_nobody_awaits_stays_with_the_session(place: Place) {
    let quota = quota(&place).await;
    let mut admission = quota.admit(request(&per_day(10_000))).await.unwrap();
    let held = quota.reserved_ahead();
    let reserving = admission.reserve(5000);
    drop(reserving);
    until("it has been granted", async || {
        quota.reserved_ahead() > held + 4000
    })
    .await;
    assert_eq!(admission.charged(), 0);
    assert_eq!(admission.try_charge(5000), Some(Ok(())));
    let reservation = admission.reserve(4000).await;
    drop(reservation);
    assert_eq!(admission.try_charge(4000), Some(Ok(())));
    let reservation = admission.reserve(500).await;
    settle(admission).await;
    drop(reservation);
    until("it is given back", async || {
        used(&quota, Per::Day, NOW).await == 9000
    })
    .await;
}

async fn sessions_take_turns_when_slots_are_few(place: Place) {
    let quota = quota(&place).await;
    let plan = limits("max_concurrent_sessions = 1");
    let first = quota.admit(request(&plan)).await.unwrap();
    let refusal = quota.admit(request(&plan)).await.err().unwrap();
    assert_eq!(refusal, Refusal::Sessions { limit: 1 });
    quota.note_refusal(&refusal);
    settle(first).await;
    let second = quota.admit(request(&plan)).await.unwrap();
    drop(second);
    until("a dropped one frees its slot", async || {
        quota.admit(request(&plan)).await.is_ok()
    })
    .await;
    assert!(
        quota
            .refusals()
            .any(|(name, count)| name == "concurrent_sessions" && count.get() == 1)
    );
}

async fn windows_follow_the_clock(place: Place) {
    let quota = quota(&place).await;
    let plan = per_day(1000);
    let mut admission = quota.admit(request(&plan)).await.unwrap();
    admission.charge(990).await.unwrap();
    assert!(admission.charge(11).await.is_err());
    place.clock.set(NOW + DAY_MS);
    admission.charge(995).await.unwrap();
    assert!(admission.charge(6).await.is_err());
    place.clock.set(NOW);
    assert!(
        admission.charge(11).await.is_err(),
        "back again there is no second allowance"
    );
    admission.charge(10).await.unwrap();
    settle(admission).await;
    assert_eq!(used(&quota, Per::Day, NOW).await, 1000);
    assert_eq!(used(&quota, Per::Day, NOW + DAY_MS).await, 995);
}

async fn other_limits_hold_from_the_next_message_on(place: Place) {
    let quota = quota(&place).await;
    let mut admission = quota.admit(request(&per_day(100_000))).await.unwrap();
    admission.charge(500).await.unwrap();
    admission.set_limits(per_day(600));
    assert!(admission.charge(101).await.is_err());
    admission.charge(100).await.unwrap();
    admission.set_limits(per_day(100_000));
    admission.charge(5000).await.unwrap();
    settle(admission).await;
    assert_eq!(used(&quota, Per::Day, NOW).await, 5600);
}

async fn a_client_sees_its_own_window(place: Place) {
    let quota = quota(&place).await;
    let anna = client("anna");
    let plan = limits(
        "windows = [{ unit = \"characters\", limit = 50, per = \"minute\" }, \
         { unit = \"characters\", limit = 1000, per = \"month\" }]",
    );
    let mut admission = quota.admit(request(&plan)).await.unwrap();
    admission.charge(40).await.unwrap();
    let shown = quota.subscription(&anna, &plan).await.unwrap();
    assert_eq!((shown.character_count, shown.character_limit), (40, 1000));
    assert_eq!(
        shown.next_character_count_reset_unix,
        Some(Per::Month.span(NOW).1)
    );
    let user = serde_json::to_value(quota.user(&anna, &plan).await.unwrap()).unwrap();
    assert_eq!(user["subscription"]["tier"], "default");
    let credits = limits("windows = [{ unit = \"credits\", limit = 9, per = \"day\" }]");
    let shown = quota.subscription(&anna, &credits).await.unwrap();
    assert_eq!((shown.character_count, shown.character_limit), (0, 9));
    assert_eq!(
        quota
            .subscription(&anna, &limits(""))
            .await
            .unwrap()
            .character_limit,
        2_147_483_647
    );
}

async fn a_spent_window_admits_nobody(place: Place) {
    let quota = quota(&place).await;
    let plan = per_day(70);
    let mut admission = quota
        .admit(AdmissionRequest {
            streaming: false,
            ..request(&plan)
        })
        .await
        .unwrap();
    assert_eq!(admission.try_charge(70), None);
    admission.charge(70).await.unwrap();
    let refusal = quota.admit(request(&plan)).await.err().unwrap();
    assert!(
        matches!(
            refusal,
            Refusal::Window {
                limit: 70,
                used: 70,
                asked: 0,
                ..
            }
        ),
        "{refusal:?}"
    );
}

macro_rules! for_every_store {
    ($($test:ident)*) => {
        mod memory { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Place::memory()).await })* }
        mod sqlite { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Place::sqlite()).await })* }
        mod redis { $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Place::redis()).await })* }
    };
}

for_every_store! {
    many_sessions_forward_exactly_what_fits
    idle_siblings_strand_nothing
    what_is_unspent_goes_back
    a_reservation_nobody_awaits_stays_with_the_session
    sessions_take_turns_when_slots_are_few
    windows_follow_the_clock
    other_limits_hold_from_the_next_message_on
    a_client_sees_its_own_window
    a_spent_window_admits_nobody
}

#[tokio::test]
async fn a_session_and_a_narrowed_token_have_limits_of_their_own() {
    let quota = quota(&Place::memory()).await;
    let plan = limits("max_session_characters = 100");
    let mut admission = quota.admit(request(&plan)).await.unwrap();
    admission.charge(99).await.unwrap();
    let refusal = Refusal::SessionCharacters {
        limit: 100,
        used: 99,
        asked: 2,
    };
    assert_eq!(admission.try_charge(2), Some(Err(refusal)));
    assert_eq!(admission.try_charge(1), Some(Ok(())));
    assert_eq!(admission.try_charge(0), Some(Ok(())));
    let narrowed = AdmissionRequest {
        cap: Some(10),
        ..request(&plan)
    };
    let mut admission = quota.admit(narrowed).await.unwrap();
    assert_eq!(
        admission.charge(11).await.unwrap_err().error(),
        "quota_exceeded"
    );
    admission.charge(10).await.unwrap();
}

#[tokio::test]
async fn what_a_plan_does_not_allow_is_not_admitted() {
    let quota = quota(&Place::memory()).await;
    let check = async |plan: &str, refusal: Refusal| {
        let voice = crate::ids::VoiceId::parse("v").ok();
        let request = AdmissionRequest {
            voice,
            ..request(&limits(plan))
        };
        assert_eq!(quota.admit(request).await.err().unwrap(), refusal);
    };
    check("voices = [\"w\"]", Refusal::Voice).await;
    check("models = [\"m\"]", Refusal::Model).await;
    check("output_formats = [\"pcm_16000\"]", Refusal::OutputFormat).await;
}

/// Two processes on one store: what idle sessions of one hold is there for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_blocks_come_back_across_processes() {
    let place = Place::redis();
    let (one, other) = (quota(&place).await, quota(&place).await);
    let plan = per_day(10_000);
    let mut idle = Vec::new();
    for _ in 0..8 {
        idle.push(one.admit(request(&plan)).await.unwrap());
    }
    assert!(one.reserved_ahead() > 50);
    let (forwarded, _) = speak(other.admit(request(&plan)).await.unwrap(), 10_000, 7).await;
    assert_eq!(forwarded, 9_996);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_together_forward_what_the_window_holds() {
    let place = Place::redis();
    let plan = per_day(50_000);
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let quota = quota(&place).await;
        for n in 0..20u64 {
            let (quota, plan) = (quota.clone(), plan.clone());
            sessions.spawn(async move {
                let admission = quota.admit(request(&plan)).await.unwrap();
                speak(admission, 200, 5 + n).await.0
            });
        }
    }
    let forwarded: u64 = sessions.join_all().await.into_iter().sum();
    assert!((49_900..=50_000).contains(&forwarded), "{forwarded}");
}

/// One of three processes dies half way: what it had reserved is gone, the rest still goes through.
#[test]
fn a_replica_that_dies_takes_little_with_it() {
    let place = Place::redis();
    let forwarded = Arc::new(AtomicU64::new(0));
    let run = |runtime: &tokio::runtime::Runtime| {
        let quota = runtime.block_on(quota(&place));
        let mut sessions = tokio::task::JoinSet::new();
        for n in 0..20u64 {
            let (quota, forwarded, plan) = (quota.clone(), forwarded.clone(), per_day(50_000));
            let speak = async move {
                let mut admission = quota.admit(request(&plan)).await.unwrap();
                while admission.charge(5 + n).await.is_ok() {
                    forwarded.fetch_add(5 + n, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                settle(admission).await;
            };
            sessions.spawn_on(speak, runtime.handle());
        }
        sessions
    };
    let runtimes = [(); 3].map(|()| tokio::runtime::Runtime::new().unwrap());
    let [doomed, second, third] = [0, 1, 2].map(|n| run(&runtimes[n]));
    while forwarded.load(Ordering::SeqCst) < 25_000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let [dying, two, three] = runtimes;
    dying.shutdown_background();
    drop(doomed);
    two.block_on(second.join_all());
    three.block_on(third.join_all());
    let forwarded = forwarded.load(Ordering::SeqCst);
    assert!((49_000..=50_000).contains(&forwarded), "{forwarded}");
}

/// New spending is refused in time, held characters can be spent, and all is well afterwards.
async fn goes_through_an_outage(place: &Place, fail: impl AsyncFnOnce(), mend: impl AsyncFnOnce()) {
    let quota = quota(place).await;
    let plan = per_day(100_000);
    let mut live = quota.admit(request(&plan)).await.unwrap();
    let ending = quota.admit(request(&plan)).await.unwrap();
    live.charge(10).await.unwrap();
    fail().await;
    let asked = Instant::now();
    let (admitted, charged) = tokio::join!(quota.admit(request(&plan)), live.reserve(50_000));
    assert_eq!(admitted.err().unwrap(), Refusal::StoreUnavailable);
    assert_eq!(live.apply(charged).unwrap_err().error(), "system_busy");
    assert!(
        asked.elapsed() < Duration::from_millis(500),
        "{:?}",
        asked.elapsed()
    );
    assert!(!quota.books().is_up());
    let asked = Instant::now();
    assert!(quota.admit(request(&plan)).await.is_err());
    assert!(
        asked.elapsed() < Duration::from_millis(50),
        "known to be down"
    );
    assert_eq!(
        live.try_charge(10),
        Some(Ok(())),
        "what is held can be spent"
    );
    settle(ending).await;
    mend().await;
    until("the store is back", async || {
        quota.admit(request(&plan)).await.is_ok()
    })
    .await;
    live.charge(5000).await.unwrap();
    settle(live).await;
    until("all is entered", async || {
        let usage = quota.books().usage(&Query::default()).await.unwrap();
        usage.iter().map(|row| row.sessions - row.live).sum::<u64>() >= 3
    })
    .await;
    let usage = quota.books().usage(&Query::default()).await.unwrap();
    assert_eq!(usage[0].characters, 5020);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_stops_answering_is_survived() {
    let place = Place::redis();
    let redis = place.redis.as_ref().unwrap();
    goes_through_an_outage(
        &place,
        async || redis.signal("STOP"),
        async || redis.signal("CONT"),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_file_is_survived() {
    let place = Place::sqlite();
    let lock = tokio::sync::OnceCell::new();
    let path = place.path();
    let fail = async || {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
        lock.set(parking_lot::Mutex::new(connection)).ok().unwrap();
    };
    let mend = async || lock.get().unwrap().lock().execute_batch("COMMIT").unwrap();
    goes_through_an_outage(&place, fail, mend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_cannot_grow_or_be_written_is_survived() {
    let place = Place::sqlite();
    let path = place.path();
    // A trigger fails every write, as a full disk or a read-only file does.
    let write = |sql: &'static str| {
        let path = path.clone();
        async move || {
            let connection = rusqlite::Connection::open(&path).unwrap();
            connection.busy_timeout(Duration::from_secs(5)).unwrap();
            connection.execute_batch(sql).unwrap();
        }
    };
    let fail = write(
        "CREATE TRIGGER full_w BEFORE UPDATE ON windows BEGIN SELECT RAISE(ABORT, 'full'); END; \
         CREATE TRIGGER full_i BEFORE INSERT ON live BEGIN SELECT RAISE(ABORT, 'full'); END; \
         CREATE TRIGGER full_d BEFORE DELETE ON live BEGIN SELECT RAISE(ABORT, 'full'); END; \
         CREATE TRIGGER full_o BEFORE UPDATE ON owners BEGIN SELECT RAISE(ABORT, 'full'); END;",
    );
    let mend = write(
        "DROP TRIGGER full_w; DROP TRIGGER full_i; DROP TRIGGER full_d; DROP TRIGGER full_o;",
    );
    goes_through_an_outage(&place, fail, mend).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_store_failure_allow_lets_through_and_enters_afterwards() {
    let mut place = Place::redis();
    place.config.on_store_failure = OnStoreFailure::Allow;
    let quota = quota(&place).await;
    let plan = limits(
        "max_concurrent_sessions = 2\n\
         windows = [{ unit = \"characters\", limit = 1000, per = \"day\" }]",
    );
    let mut before = quota.admit(request(&plan)).await.unwrap();
    before.charge(100).await.unwrap();
    place.redis.as_ref().unwrap().signal("STOP");
    let mut during = quota.admit(request(&plan)).await.unwrap();
    assert!(
        quota.admit(request(&plan)).await.is_err(),
        "slots are still counted here"
    );
    during.charge(700).await.unwrap();
    before.charge(700).await.unwrap();
    place.redis.as_ref().unwrap().signal("CONT");
    until("the store is back", async || quota.books().is_up()).await;
    settle(during).await;
    assert_eq!(
        before.charge(100).await.unwrap_err().error(),
        "quota_exceeded"
    );
    settle(before).await;
    until("it is entered", async || {
        quota.books().recent(9).await.unwrap().len() == 2
    })
    .await;
    let used = used(&quota, Per::Day, NOW).await;
    assert!((1500..1600).contains(&used), "{used}");
}

#[tokio::test]
async fn refused_sessions_stand_in_the_ledger() {
    let quota = quota(&Place::memory()).await;
    quota.record_refused(row(&client("anna"), SessionId::random(), NOW));
    until("it is entered", async || {
        quota.books().recent(1).await.unwrap().len() == 1
    })
    .await;
    let usage = quota.books().usage(&Query::default()).await.unwrap();
    assert_eq!(
        (usage[0].sessions, usage[0].refused, usage[0].characters),
        (0, 1, 0)
    );
    assert_eq!(
        quota
            .books()
            .counters()
            .rows_waiting
            .load(Ordering::Relaxed),
        0
    );
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        flash: bool,
    },
    Charge {
        session: usize,
        characters: u64,
        is_large: bool,
    },
    Settle {
        session: usize,
    },
    Wait {
        minutes: i64,
    },
    Reload {
        plan: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let charge = (0usize..6, 1u64..400, any::<bool>());
    prop_oneof![
        3 => any::<bool>().prop_map(|flash| Step::Open { flash }),
        12 => charge.prop_map(|(session, characters, is_large)| {
            Step::Charge { session, characters, is_large }
        }),
        2 => (0usize..6).prop_map(|session| Step::Settle { session }),
        1 => (1i64..3).prop_map(|minutes| Step::Wait { minutes }),
        1 => (0usize..2).prop_map(|plan| Step::Reload { plan }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever sessions with different models do while limits change: in each window, what was
    /// forwarded never passes the limit, a refusal means that the message truly did not fit, and in
    /// the end the counters show what was forwarded, no more and no less.
    #[test]
    fn windows_hold_and_refuse_only_what_does_not_fit(
        steps in prop::collection::vec(step(), 1..80),
        // With large limits, blocks are large enough to be left to the next session.
        scale in prop_oneof![Just(1), Just(300)],
    ) {
        // Two threads, so that blocks fetched in the background race with what follows.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(follow(steps, scale))?;
    }
}

async fn follow(steps: Vec<Step>, scale: u64) -> Result<(), TestCaseError> {
    let per_minute = [1500, 900].map(|limit| limit * scale);
    let (credits, milli_credits) = (2000 * scale, 2_000_000 * scale);
    let place = Place::memory();
    let quota = quota(&place).await;
    let plans = per_minute.map(|limit| {
        limits(&format!(
            "windows = [{{ unit = \"characters\", limit = {limit}, per = \"minute\" }}, \
             {{ unit = \"credits\", limit = {credits}, per = \"day\" }}]"
        ))
    });
    let mut sessions: Vec<(Admission, u64)> = Vec::new();
    let (mut now_ms, mut plan) = (NOW, 0);
    let (mut minute, mut milli_day) = (0, 0);
    for step in steps {
        match step {
            Step::Open { flash } if sessions.len() < 6 => {
                let rate = if flash { 500 } else { 1000 };
                let model = if flash {
                    "eleven_flash_v2_5"
                } else {
                    "eleven_multilingual_v2"
                };
                let asked = AdmissionRequest {
                    model: model.into(),
                    ..request(&plans[plan])
                };
                match quota.admit(asked).await {
                    Ok(admission) => sessions.push((admission, rate)),
                    Err(_) => {
                        prop_assert!(minute >= per_minute[plan] || milli_day + rate > milli_credits)
                    }
                }
            }
            Step::Charge {
                session,
                characters,
                is_large,
            } if session < sessions.len() => {
                let characters = if is_large {
                    characters * scale
                } else {
                    characters
                };
                let (admission, rate) = &mut sessions[session];
                let fits = minute + characters <= per_minute[plan]
                    && milli_day + characters * *rate <= milli_credits;
                let charged = admission.charge(characters).await;
                prop_assert_eq!(
                    charged.is_ok(),
                    fits,
                    "{:?} {} {}",
                    charged,
                    minute,
                    milli_day
                );
                if fits {
                    minute += characters;
                    milli_day += characters * *rate;
                }
            }
            Step::Settle { session } if session < sessions.len() => {
                settle(sessions.swap_remove(session).0).await;
            }
            Step::Wait { minutes } => {
                now_ms += minutes * 60_000;
                place.clock.set(now_ms);
                minute = 0;
            }
            Step::Reload { plan: other } => {
                plan = other;
                for (admission, _) in &mut sessions {
                    admission.set_limits(plans[plan].clone());
                }
            }
            _ => {}
        }
    }
    for (admission, _) in sessions {
        settle(admission).await;
    }
    quota.inner.give_up_seats(Duration::ZERO).await;
    // A block that was on its way when its session was settled goes back by itself.
    let day = WindowKey::at(Unit::Credits, Per::Day, now_ms);
    let shown = async || quota.books().used(&client("anna"), &[day]).await.unwrap()[0];
    let deadline = Instant::now() + Duration::from_secs(10);
    while shown().await != milli_day && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    prop_assert_eq!(shown().await, milli_day);
    prop_assert_eq!(used(&quota, Per::Minute, now_ms).await, minute);
    Ok(())
}

/// Who is expected to be let in has upstream dialed before it is.
#[tokio::test]
async fn room_is_expected_of_who_had_plenty_and_of_nobody_else() {
    let quota = quota(&Place::memory()).await;
    let anna = client("anna");
    let admit = async |request| quota.admit(request).await;
    assert!(!quota.expects_room(&anna), "nothing is known yet");

    let plenty = per_day(100_000_000);
    let session = admit(request(&plenty)).await.unwrap();
    assert!(quota.expects_room(&anna));
    let once = AdmissionRequest {
        streaming: false,
        ..request(&per_day(10))
    };
    settle(admit(once).await.unwrap()).await;
    assert!(
        quota.expects_room(&anna),
        "a single request tells nothing new"
    );
    settle(admit(request(&per_day(1000))).await.unwrap()).await;
    assert!(!quota.expects_room(&anna), "little is left");

    settle(admit(request(&plenty)).await.unwrap()).await;
    assert!(quota.expects_room(&anna));
    let full = limits("max_concurrent_sessions = 1");
    assert!(admit(request(&full)).await.is_err());
    assert!(!quota.expects_room(&anna), "it was refused");
    let last = limits("max_concurrent_sessions = 2");
    settle(admit(request(&last)).await.unwrap()).await;
    assert!(!quota.expects_room(&anna), "it took the last slot");
    settle(session).await;
}

/// A block may be on its way while the limits that it was granted under are replaced.
#[tokio::test]
async fn a_block_asked_for_under_other_limits_is_given_back() {
    let quota = quota(&Place::memory()).await;
    let (old, new) = (per_day(1000), per_day(900));
    let mut admission = quota.admit(request(&old)).await.unwrap();
    let basis = admission
        .meter
        .basis(old.spending(NOW, admission.opening.milli_rate));
    admission.set_limits(new);
    let held = admission.meter.held();
    let left = admission.meter.fill(100, &basis);
    assert_eq!(left.map(|adjust| adjust.characters), Some(-100));
    assert_eq!(admission.meter.held(), held);
    assert!(!admission.meter.try_take(1, NOW));
    settle(admission).await;
}

/// How long charging takes on the message path, the store's turns included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_median_message_does_not_meet_the_store() {
    let mut place = Place::sqlite();
    place.clock = WallClock::system();
    let quota = quota(&place).await;
    let mut admission = quota.admit(request(&per_day(1_000_000_000))).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..2000 {
        let asked = Instant::now();
        admission.charge(7).await.unwrap();
        times.push(asked.elapsed());
    }
    times.sort();
    let median = times[times.len() / 2];
    // A hundred times what it takes, and far below what a commit takes.
    assert!(median < Duration::from_micros(50), "{median:?}");
    settle(admission).await;
}

/// A client may go away while the store is being asked for it.
#[tokio::test]
async fn an_admission_that_nobody_waits_for_gives_its_slot_back() {
    let quota = quota(&Place::sqlite()).await;
    let plan = Arc::new(
        Limits::new(
            "p",
            &PlanConfig {
                max_concurrent_sessions: 1,
                ..PlanConfig::default()
            },
        )
        .unwrap(),
    );
    for _ in 0..50 {
        let mut admitting = Box::pin(quota.admit(request(&plan)));
        // Asked for, and then gone before the answer.
        let polled = futures_util::poll!(admitting.as_mut());
        drop((polled.is_ready(), admitting));
    }
    let admitted = async {
        while quota.admit(request(&plan)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), admitted)
        .await
        .unwrap();
}

/// Two sessions, one right behind the other, the second of which leaves its seat.
async fn leave_a_seat(quota: &Quota, plan: &Arc<Limits>) {
    for _ in 0..2 {
        let mut session = quota.admit(request(plan)).await.unwrap();
        session.charge(10).await.unwrap();
        settle(session).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_takes_over_what_the_last_one_left_without_asking_the_store() {
    let place = Place::sqlite();
    let quota = quota(&place).await;
    let plan = per_day(100_000_000);
    leave_a_seat(&quota, &plan).await;
    let before = used(&quota, Per::Day, NOW).await;
    let lock = rusqlite::Connection::open(place.path()).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..3 {
        let mut session = quota.admit(request(&plan)).await.unwrap();
        session.charge(10).await.unwrap();
        settle(session).await;
    }
    lock.execute_batch("COMMIT").unwrap();
    assert!(quota.books().is_up());
    assert_eq!(
        used(&quota, Per::Day, NOW).await,
        before,
        "nothing more was reserved"
    );
    assert_eq!(quota.live_sessions(), [(client("anna"), 0)]);
    let usage = quota.books().usage(&Query::default()).await.unwrap();
    assert_eq!((usage[0].sessions, usage[0].characters), (5, 50));
    assert_eq!(usage[0].live, 0, "a vacant seat is no session");

    until("what nobody takes over goes back", async || {
        used(&quota, Per::Day, NOW).await == 50
    })
    .await;
    assert_eq!(quota.live_sessions(), [], "nothing is left behind");
}

#[tokio::test]
async fn vacant_seats_take_no_slot_from_those_they_are_of_no_use_to() {
    for place in [Place::memory(), Place::sqlite()] {
        let quota = quota(&place).await;
        let plan = |limit: u64| {
            limits(&format!(
                "max_concurrent_sessions = 2\n\
                 windows = [{{ unit = \"characters\", limit = {limit}, per = \"day\" }}]"
            ))
        };
        leave_a_seat(&quota, &plan(100_000_000)).await;
        // Under another plan the seat cannot be taken over.
        let other = plan(90_000_000);
        let first = quota.admit(request(&other)).await.unwrap();
        let second = quota.admit(request(&other)).await.unwrap();
        let third = quota.admit(request(&other)).await.err().unwrap();
        assert!(matches!(third, Refusal::Sessions { limit: 2 }), "{third:?}");
        settle(first).await;
        settle(second).await;
        quota.close().await;
        assert_eq!(used(&quota, Per::Day, NOW).await, 20);
    }
}

/// What many requests of one transaction add to is written once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_and_seats_in_the_file_are_what_its_rows_say() {
    let place = Place::sqlite();
    let quota = quota(&place).await;
    let plan = per_day(100_000_000);
    let mut clients = tokio::task::JoinSet::new();
    for n in 0..8u64 {
        let (quota, plan) = (quota.clone(), plan.clone());
        clients.spawn(async move {
            for m in 0..40 {
                let mut session = quota.admit(request(&plan)).await.unwrap();
                session.charge(1 + n + m).await.unwrap();
                if m % 7 == 0 {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                settle(session).await;
            }
        });
    }
    clients.join_all().await;
    let spent: u64 = (0..8)
        .map(|n| (0..40).map(|m| 1 + n + m).sum::<u64>())
        .sum();
    // It comes behind all that was asked before.
    let usage = quota.books().usage(&Query::default()).await.unwrap();
    assert_eq!((usage[0].sessions, usage[0].characters), (320, spent));
    let db = rusqlite::Connection::open(place.path()).unwrap();
    let count = |sql: &str| -> u64 { db.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT sum(characters_forwarded) FROM ledger"), spent);
    assert_eq!(count("SELECT sum(bytes_up) FROM ledger"), usage[0].bytes_up);
    let held = quota.reserved_ahead();
    assert!(held > 0, "some seats are kept");
    assert_eq!(count("SELECT sum(reserved) FROM live"), held);
    assert_eq!(count("SELECT count(*) FROM live WHERE NOT vacant"), 0);
    assert_eq!(count("SELECT sum(used) FROM windows"), spent + held);
}

#[tokio::test]
async fn an_http_request_takes_a_vacant_seat_and_leaves_none() {
    let place = Place::sqlite();
    let quota = quota(&place).await;
    let plan = limits(
        "max_concurrent_sessions = 2\n\
         windows = [{ unit = \"characters\", limit = 100000000, per = \"day\" }]",
    );
    leave_a_seat(&quota, &plan).await;
    let once = || AdmissionRequest {
        streaming: false,
        ..request(&plan)
    };
    let mut first = quota.admit(once()).await.unwrap();
    let second = quota.admit(once()).await.unwrap();
    let third = quota.admit(once()).await.err().unwrap();
    assert!(matches!(third, Refusal::Sessions { limit: 2 }), "{third:?}");
    first.charge(30).await.unwrap();
    settle(first).await;
    settle(second).await;
    assert_eq!(used(&quota, Per::Day, NOW).await, 50);
    assert_eq!(quota.live_sessions(), []);
}

/// What a request sets aside comes back when it has not gone up, wherever it came from.
#[tokio::test]
async fn what_is_held_and_not_applied_costs_nothing() {
    let place = Place::sqlite();
    let quota = quota(&place).await;
    let plan = per_day(100_000_000);
    let once = || AdmissionRequest {
        streaming: false,
        ..request(&plan)
    };
    leave_a_seat(&quota, &plan).await;
    let mut in_a_vacant_seat = quota.admit(once()).await.unwrap();
    let mut in_a_new_one = quota.admit(once()).await.unwrap();
    for admission in [&mut in_a_vacant_seat, &mut in_a_new_one] {
        drop(admission.hold(1000).await.unwrap());
        assert_eq!(admission.charged(), 0);
        let held = admission.hold(7).await.unwrap();
        admission.apply(held).unwrap();
        assert_eq!(admission.charged(), 7);
        drop(admission.hold(0).await.unwrap());
    }
    settle(in_a_vacant_seat).await;
    settle(in_a_new_one).await;
    assert_eq!(used(&quota, Per::Day, NOW).await, 20 + 2 * 7);
    let usage = quota.books().usage(&Query::default()).await.unwrap();
    assert_eq!(usage[0].characters, 20 + 2 * 7);
}

#[tokio::test]
async fn a_seat_on_its_way_back_is_waited_for() {
    let quota = quota(&Place::memory()).await;
    leave_a_seat(&quota, &per_day(100_000_000)).await;
    let inner = Arc::clone(&quota.inner);
    let Seat { client, meter, .. } = inner.seats.take(&client("anna")).unwrap();
    let turn = client.turn.read().await;
    let adjust = meter.close();
    // What is spent fits the new limit; what is spent and reserved does not.
    let admitting = quota.admit(request(&per_day(1000)));
    let mut admitting = std::pin::pin!(admitting);
    assert!(admitting.as_mut().now_or_never().is_none());
    let settle = Settle {
        client: client.id.clone(),
        seat: meter.live.seat(),
        keeps_seat: false,
        record: None,
        adjust,
    };
    inner.books.settle(settle).await;
    client.leave(&meter);
    client.note_vacant(false);
    drop(turn);
    let admission = admitting.await.unwrap();
    admission
        .settle(row(&client.id, SessionId::random(), NOW))
        .await;
}

#[tokio::test]
async fn a_seat_that_is_left_late_goes_back_too() {
    let quota = quota(&Place::memory()).await;
    let plan = per_day(100_000_000);
    let first = quota.admit(request(&plan)).await.unwrap();
    let second = quota.admit(request(&plan)).await.unwrap();
    settle(first).await;
    until("nobody looks after seats", async || {
        let seats = &quota.inner.seats;
        seats.is_empty() && seats.start_tending()
    })
    .await;
    quota.inner.seats.stop_tending();
    settle(second).await;
    assert_eq!(used(&quota, Per::Day, NOW).await, 2048, "it is kept");
    until("it goes back", async || {
        used(&quota, Per::Day, NOW).await == 0
    })
    .await;
}

#[tokio::test]
async fn what_ends_after_the_end_leaves_no_seat() {
    let quota = quota(&Place::memory()).await;
    let plan = per_day(100_000_000);
    leave_a_seat(&quota, &plan).await;
    let late = quota.admit(request(&plan)).await.unwrap();
    quota.close().await;
    settle(late).await;
    assert_eq!(used(&quota, Per::Day, NOW).await, 20);
    assert_eq!(quota.live_sessions(), []);
}

#[tokio::test]
async fn each_start_is_counted_where_starts_are() {
    let quota = quota(&Place::memory()).await;
    let plan = limits("windows = [{ unit = \"sessions\", limit = 3, per = \"day\" }]");
    for n in 0..4 {
        match quota.admit(request(&plan)).await {
            Ok(session) => settle(session).await,
            Err(refusal) => assert!(n == 3 && matches!(refusal, Refusal::Window { .. })),
        }
    }
}

/// What a process that dies had reserved in a vacant seat may have been spent by a session of which
/// the store had not heard yet.
#[test]
fn a_vacant_seat_of_a_dead_process_counts_as_spent() {
    let place = Place::sqlite();
    let plan = per_day(100_000_000);
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    let kept = runtime.block_on(async {
        let quota = quota(&place).await;
        leave_a_seat(&quota, &plan).await;
        assert_eq!(quota.books().recent(9).await.unwrap().len(), 2);
        quota
    });
    runtime.shutdown_background();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        // The dead process's file is closed, as the system does for it.
        drop(kept);
        let books = place.open().await;
        let key = WindowKey::at(Unit::Characters, Per::Day, NOW);
        let used = books.used(&client("anna"), &[key]).await.unwrap()[0];
        assert_eq!(used, 10 + 2048, "the first session's rest had gone back");
        let rows = books.recent(9).await.unwrap();
        let lost: Vec<_> = rows
            .iter()
            .filter(|row| row.outcome == Outcome::Lost)
            .collect();
        assert_eq!((rows.len(), lost.len()), (3, 1));
        assert_eq!(lost[0].characters_forwarded, 2048 - 10);
    });
}

#[tokio::test]
async fn a_relay_that_stops_leaves_no_seat_behind() {
    let place = Place::sqlite();
    let quota = quota(&place).await;
    leave_a_seat(&quota, &per_day(100_000_000)).await;
    quota.close().await;
    let db = rusqlite::Connection::open(place.path()).unwrap();
    let count = |sql: &str| -> i64 { db.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT count(*) FROM live"), 0);
    assert_eq!(count("SELECT sum(used) FROM windows"), 20);
}
