//! `uploader run`: start-up, recovery and steady state are one loop.

use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use protocol::spool::{Entry, Found, Spool, State, is_abandoned};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::journal::Journal;
use crate::monitor::Monitor;
use crate::queue::{Progress, Step, Workers, plan};
use crate::repair::{Repaired, repair};
use crate::store::retry_after;
use crate::upload::{Fate, Trouble, Uploader};
use crate::watch::{Change, Watch};
use crate::{http, reach};

/// How often the spool is listed although nothing was heard of it. Parts that
/// were abandoned make no event.
const LIST_EVERY: Duration = Duration::from_secs(180);
/// How soon a spool that is not there is looked for again: on a new node the
/// installer may not have made it yet.
const RETRY_SPOOL: Duration = Duration::from_secs(2);
/// Between attempts: doubled from the first to the last, and up to as much
/// again at random, so that the nodes of a cluster do not come back all at
/// once. Five minutes at the most.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LAST_DELAY: Duration = Duration::from_secs(150);
/// A store that wants to be left alone for longer is asked all the same.
const LONGEST_DELAY: Duration = Duration::from_secs(900);
/// How often it is looked for uploads in parts whose dump is gone.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// How often it is looked for uploaded dumps that have to go. An upload takes no
/// space; but others write to the disk, too.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// For uploads to be aborted, after the grace period, that could not be remembered.
pub const LAST_WORDS: Duration = Duration::from_secs(6);

/// How long a dump that is itself in trouble is left alone. The next listing
/// after that finds it.
const REST: Duration = LIST_EVERY;

type Finished = (Entry, Result<Fate, Trouble>);
type Mended = (Entry, anyhow::Result<Repaired>);

/// Ships what is in the spool, until a SIGTERM. Tells who asks at `listen` how
/// it goes.
///
/// # Errors
/// If signals cannot be waited for, or nobody can be listened to.
pub async fn run(
    uploader: Uploader,
    parallel: usize,
    grace: Duration,
    monitor: Monitor,
    listen: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let monitor = Arc::new(monitor);
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT")?;
    log::info!(spool:% = uploader.spool().dir().display(), store:% = uploader.store(); "started");
    if let Some(address) = listen {
        http::serve(address, Arc::clone(&monitor)).with_context(|| format!("listening on {address}"))?;
        tokio::spawn(reach::ask(uploader.clone(), Arc::clone(&monitor)));
    }
    let events = uploader.events().clone();
    tokio::spawn(Journal::new(uploader.spool().clone(), Arc::clone(&monitor), events).follow());
    let others = uploader.clone();
    let mut daemon = Daemon::new(uploader, parallel, Arc::clone(&monitor));
    tokio::select! {
        () = daemon.serve() => {}
        () = sweep(&others) => {}
        () = expire(&others, &monitor) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    daemon.stop(grace).await;
    Ok(())
}

async fn sweep(uploader: &Uploader) {
    loop {
        uploader.sweep().await;
        sleep(SWEEP_EVERY).await;
    }
}

async fn expire(uploader: &Uploader, monitor: &Arc<Monitor>) {
    loop {
        let counted = Arc::clone(monitor);
        let pause = match uploader.expire(move |reason| counted.metrics.expired(reason)).await {
            Ok(()) => EXPIRE_EVERY,
            Err(err) => {
                log::warn!("uploaded dumps are not seen to: {err:#}");
                REST
            }
        };
        sleep(pause).await;
    }
}

struct Daemon {
    monitor: Arc<Monitor>,
    uploader: Uploader,
    parallel: usize,
    progress: Progress,
    uploads: JoinSet<Finished>,
    /// One at the most.
    repairs: JoinSet<Mended>,
    /// Ends them. What they leave is torn still.
    stop_repairs: CancellationToken,
    store: Patience,
    /// The last thing that was wrong with the spool, said once.
    complaint: Option<String>,
}

impl Daemon {
    fn new(uploader: Uploader, parallel: usize, monitor: Arc<Monitor>) -> Daemon {
        Daemon {
            monitor,
            uploader,
            parallel,
            progress: Progress::default(),
            uploads: JoinSet::new(),
            repairs: JoinSet::new(),
            stop_repairs: CancellationToken::new(),
            store: Patience::new(),
            complaint: None,
        }
    }

    async fn serve(&mut self) {
        loop {
            // Subscribe, then list: in that order nothing falls in between.
            let watch = Watch::new(self.uploader.spool().dir());
            if let Err(err) = &watch {
                self.complain(&format!("watching it: {err}"));
            }
            self.attend(watch.ok()).await;
            // Uploads in flight go on meanwhile, and are seen to afterwards.
            sleep(RETRY_SPOOL).await;
        }
    }

    /// Works until the spool, or the subscription to it, is lost. Without one
    /// (a node may be out of inotify instances) it works through the spool once.
    async fn attend(&mut self, mut watch: Option<Watch>) {
        loop {
            // Before the listing: what is finished is not in it any more, and
            // must not be taken for something to do.
            while let Some(finished) = self.uploads.try_join_next() {
                self.finish(finished);
            }
            while let Some(repaired) = self.repairs.try_join_next() {
                self.finish_repair(repaired);
            }
            let waiting_for_the_store = match self.uploader.spool().list() {
                Ok(found) => {
                    self.monitor.listed(&found);
                    self.advance(&found)
                }
                Err(err) => {
                    self.monitor.unlisted(&err);
                    return self.complain(&format!("listing it: {err}"));
                }
            };
            let Some(watch) = &mut watch else { return };
            self.complaint = None;
            let until = self.store.until;
            tokio::select! {
                change = watch.changed() => match change {
                    Ok(Change::Look) => {}
                    Ok(Change::Lost) => return self.complain("it is gone"),
                    Err(err) => return self.complain(&format!("watching it: {err}")),
                },
                Some(finished) = self.uploads.join_next() => self.finish(finished),
                Some(repaired) = self.repairs.join_next() => self.finish_repair(repaired),
                () = sleep_until(until), if waiting_for_the_store => {}
                () = sleep(LIST_EVERY) => {}
            }
        }
    }

    /// Does what there is to do. Returns whether the store has to be waited for.
    fn advance(&mut self, found: &[Found]) -> bool {
        self.progress.retain(found);
        let waiting = self.store.until > Instant::now();
        let workers = Workers { count: self.parallel, small: self.uploader.part_size() };
        let workers = (!waiting).then_some(workers);
        for step in plan(found, SystemTime::now(), &self.progress, workers) {
            match step {
                Step::Upload(entry) => {
                    let bytes =
                        found.iter().find(|found| found.entry == entry).map_or(0, |found| found.bytes);
                    self.begin(entry, bytes);
                }
                Step::Examine(entry) => examine(self.uploader.spool(), &entry),
                Step::Repair(entry) => self.begin_repair(entry),
            }
        }
        waiting
    }

    fn begin(&mut self, entry: Entry, bytes: u64) {
        self.progress.busy.insert(entry.id().clone());
        let (uploader, monitor) = (self.uploader.clone(), Arc::clone(&self.monitor));
        self.uploads.spawn(async move {
            let began = Instant::now();
            let result = uploader.upload(&entry).await;
            monitor.metrics.upload(&result, bytes, began.elapsed());
            (entry, result)
        });
    }

    fn finish(&mut self, finished: Result<Finished, JoinError>) {
        let Ok((entry, result)) = finished else { return }; // cannot panic: see upload
        let id = entry.id();
        self.progress.busy.remove(id);
        match result {
            // The store was not asked.
            Ok(Fate::Gone) => {}
            Ok(Fate::Stored | Fate::Rejected) => self.store.recovered(),
            Err(Trouble::Store(err)) => {
                *self.progress.failures.entry(id.clone()).or_default() += 1;
                let next_try_in = self.store.failed(retry_after(&err)).as_secs_f32();
                log::warn!(dump:% = id, next_try_in; "not uploaded: {err:#}");
            }
            Err(Trouble::Dump(err)) => {
                *self.progress.failures.entry(id.clone()).or_default() += 1;
                self.progress.resting.insert(id.clone(), SystemTime::now() + REST);
                log::error!(dump:% = id, next_try_in = REST.as_secs_f32(); "not uploaded: {err:#}");
            }
        }
    }

    fn begin_repair(&mut self, torn: Entry) {
        self.progress.repairing = true;
        let (spool, stop) = (self.uploader.spool().clone(), self.stop_repairs.clone());
        self.repairs.spawn_blocking(move || {
            // A panic is a failed attempt and no more.
            let work = AssertUnwindSafe(|| repair(&spool, &torn, &stop));
            let result =
                panic::catch_unwind(work).unwrap_or_else(|_| Err(anyhow!("repairing {torn} panicked")));
            (torn, result)
        });
    }

    fn finish_repair(&mut self, repaired: Result<Mended, JoinError>) {
        self.progress.repairing = false;
        let Ok((torn, result)) = repaired else { return };
        let id = torn.id();
        match result {
            Ok(Repaired::Ready | Repaired::Removed | Repaired::Rejected) => return,
            Ok(Repaired::Taken) => log::info!(dump:% = id; "somebody else repairs it, or has done so"),
            Err(_) if self.stop_repairs.is_cancelled() => return,
            Err(err) => log::error!(dump:% = id, next_try_in = REST.as_secs_f32(); "not repaired: {err:#}"),
        }
        self.progress.resting.insert(id.clone(), SystemTime::now() + REST);
    }

    /// Says once, not every few seconds, what is wrong with the spool.
    fn complain(&mut self, what: &str) {
        if self.complaint.as_deref() != Some(what) {
            log::error!(spool:% = self.uploader.spool().dir().display(); "the spool cannot be used as it should: {what}");
            self.complaint = Some(what.to_owned());
        }
    }

    /// Lets uploads in flight finish for as long as `grace`, then ends them. The
    /// next start goes on with what they leave.
    async fn stop(mut self, grace: Duration) {
        log::info!(uploads = self.uploads.len(), grace:? = grace; "stopping");
        self.stop_repairs.cancel();
        if timeout(grace, self.drain()).await.is_err() {
            self.uploader.stop();
            let _ = timeout(LAST_WORDS, self.drain()).await;
        }
        log::info!(unfinished = self.uploads.len(); "stopped");
    }

    async fn drain(&mut self) {
        while let Some(finished) = self.uploads.join_next().await {
            self.finish(finished);
        }
        while let Some(repaired) = self.repairs.join_next().await {
            self.finish_repair(repaired);
        }
    }
}

/// Finds out whether the composer of a part is dead.
fn examine(spool: &Spool, entry: &Entry) {
    let torn = || -> anyhow::Result<bool> {
        let part = spool.read(entry)?;
        if !is_abandoned(&part)? {
            return Ok(false);
        }
        spool.set_state(entry, State::Torn)?;
        Ok(true)
    };
    match torn() {
        Ok(true) => log::warn!(dump:% = entry.id(); "torn: its composer died before it was complete"),
        Ok(false) => {}
        // Published between our listing and now.
        Err(err) if !spool.path(entry).exists() => log::debug!(dump:% = entry.id(); "{err:#}"),
        Err(err) => log::warn!(dump:% = entry.id(); "whether its composer lives cannot be told: {err:#}"),
    }
}

/// When the store is worth another try. One for all dumps: if it does not take
/// one it will hardly take the next.
struct Patience {
    until: Instant,
    delays: ExponentialBackoff,
}

impl Patience {
    fn new() -> Patience {
        let delays = ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY)
            .with_max_delay(LAST_DELAY)
            .with_jitter()
            .without_max_times();
        Patience { until: Instant::now(), delays: delays.build() }
    }

    fn recovered(&mut self) {
        *self = Patience::new();
    }

    /// Waits longer than the last time; what failed while it was already
    /// waiting adds nothing. `asked` is what the store itself wants, to which the
    /// delay is added. Returns how long from now.
    fn failed(&mut self, asked: Option<Duration>) -> Duration {
        let now = Instant::now();
        let earliest = now + asked.unwrap_or_default().min(LONGEST_DELAY);
        if self.until <= earliest {
            self.until = earliest + self.delays.next().unwrap_or(LAST_DELAY);
        }
        self.until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use protocol::spool::DumpId;
    use testbed::store::{ACCESS_KEY, Fault, REGION, SECRET_KEY};
    use tokio::task::spawn_blocking;

    use super::*;
    use crate::config::Config;
    use crate::retention::Retention;

    #[tokio::test(start_paused = true)]
    async fn patience_grows_to_minutes_and_ends_with_success() {
        let mut patience = Patience::new();
        let mut delays = Vec::new();
        for _ in 0..20 {
            let delay = patience.failed(None);
            assert_eq!(patience.failed(None), delay, "a second failure at the same time is the same failure");
            delays.push(delay);
            tokio::time::advance(delay).await;
        }
        assert!(delays[0] >= FIRST_DELAY && delays[0] <= 2 * FIRST_DELAY, "{delays:?}");
        assert!(delays[19] >= LAST_DELAY && delays[19] <= Duration::from_secs(300), "{delays:?}");
        patience.recovered();
        assert!(patience.failed(None) <= 2 * FIRST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_when_is_not_asked_before_but_not_forgotten_either() {
        let hour = Duration::from_secs(3600);
        let mut patience = Patience::new();
        assert!(patience.failed(None) <= 2 * FIRST_DELAY);
        let delay = patience.failed(Some(Duration::from_secs(60)));
        assert!(delay > Duration::from_secs(60) && delay < Duration::from_secs(70), "{delay:?}");
        assert_eq!(patience.failed(Some(Duration::from_secs(50))), delay, "it has said so already");
        assert!(patience.failed(Some(hour)) < LONGEST_DELAY + Duration::from_secs(20));
        assert!(patience.failed(Some(Duration::MAX)) < LONGEST_DELAY + Duration::from_secs(20));
    }

    #[tokio::test(start_paused = true)]
    async fn only_trouble_with_the_store_makes_all_dumps_wait() {
        let store = crate::store::open(crate::config::StoreConfig::Dir("/nowhere".into()), None).unwrap();
        let (key, retention) = (Default::default(), Retention::new(None));
        let uploader = Uploader::new(Spool::at("/nowhere"), store, key, 1, retention, Default::default());
        let host_dir = protocol::host::HostPath::try_from("/nowhere").unwrap();
        let monitor = Monitor::new(crate::hook::Hook::new("/nowhere".into(), &host_dir), false);
        let mut daemon = Daemon::new(uploader, 1, Arc::new(monitor));
        let entry = Entry::parse("20261122T193101Z-1-00000000.zip").unwrap();
        let mut finish = |result| {
            daemon.finish(Ok((entry.clone(), result)));
            daemon.store.until > Instant::now()
        };
        let trouble = || anyhow::anyhow!("trouble");
        assert!(!finish(Err(Trouble::Dump(trouble()))));
        assert!(finish(Err(Trouble::Store(trouble()))));
        assert!(finish(Ok(Fate::Gone)), "the store was not asked");
        assert!(!finish(Ok(Fate::Stored)));
        assert_eq!(daemon.progress.failures[entry.id()], 2);
        assert!(daemon.progress.resting.contains_key(entry.id()));
    }

    const BUCKET: &str = "dumps";

    /// A daemon that ships from `spool` to `store`.
    fn daemon(spool: Spool, store: &testbed::store::Store) -> Daemon {
        let (bucket, endpoint) = (BUCKET, store.endpoint());
        let yaml = format!(
            "store: {{s3: {{bucket: {bucket}, endpoint: '{endpoint}', region: {REGION}, path_style: true}}}}"
        );
        let pair = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some(ACCESS_KEY.to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some(SECRET_KEY.to_owned()),
            _ => None,
        };
        let config = Config::read(&yaml, &pair).unwrap();
        let store = crate::store::open(config.store, None).unwrap();
        let host_dir = protocol::host::HostPath::try_from("/nowhere").unwrap();
        let monitor = Monitor::new(crate::hook::Hook::new("/nowhere".into(), &host_dir), false);
        let (key, retention) = (Default::default(), Retention::new(None));
        let uploader = Uploader::new(spool, store, key, 1 << 20, retention, Default::default());
        Daemon::new(uploader, 2, Arc::new(monitor))
    }

    /// Lets so much time pass, or less, if it is what is waited for. Sockets have
    /// a time of their own: they get so much of that for each second.
    async fn pass(time: Duration, sockets: Duration, is_over: impl Fn() -> bool) {
        let end = Instant::now() + time;
        while Instant::now() < end && !is_over() {
            tokio::time::advance(Duration::from_secs(1)).await;
            spawn_blocking(move || std::thread::sleep(sockets)).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_without_a_store_costs_few_requests_and_no_dump() {
        let (dir, store) = (tempfile::tempdir().unwrap(), testbed::store::Store::temporary(BUCKET));
        let id = |n| DumpId::new(jiff::Timestamp::UNIX_EPOCH, n, n);
        for n in 0..100 {
            std::fs::write(dir.path().join(format!("{}.zip", id(n))), format!("dump {n}")).unwrap();
        }
        // The clock goes by itself when nothing is done, and waiting for a socket
        // is nothing. This is something.
        let (held, holding) = std::sync::mpsc::channel::<()>();
        spawn_blocking(move || holding.recv());
        store.set_faults(|_| Some(Fault::error(503, "ServiceUnavailable")));
        let mut daemon = daemon(Spool::open(dir.path()).unwrap(), &store);
        let daemon = tokio::spawn(async move { daemon.serve().await });

        pass(Duration::from_secs(3600), Duration::from_millis(2), || false).await;
        let requests = store.requests().len();
        assert!((5..=80).contains(&requests), "{requests}");
        assert!(store.objects(BUCKET).is_empty() && std::fs::read_dir(dir.path()).unwrap().count() == 100);

        store.clear_faults();
        pass(2 * LAST_DELAY, Duration::from_millis(20), || !store.objects(BUCKET).is_empty()).await;
        // Now nobody waits for the time any more.
        let is_empty = || std::fs::read_dir(dir.path()).unwrap().next().is_none();
        drop(held);
        tokio::time::resume();
        timeout(Duration::from_secs(400), async {
            while !is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        for n in 0..100 {
            assert_eq!(store.read(BUCKET, &format!("_/_/{}.zip", id(n))), format!("dump {n}").into_bytes());
        }
        daemon.abort();
    }

    #[tokio::test]
    async fn no_two_nodes_come_back_at_the_same_time() {
        let delays: std::collections::BTreeSet<_> = (0..50).map(|_| Patience::new().delays.next()).collect();
        assert!(delays.len() > 40, "{delays:?}");
    }
}
