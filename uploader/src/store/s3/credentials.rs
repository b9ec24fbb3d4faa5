//! What requests are authorised with, and where it comes from: given to us for
//! good, or lent by a [`Source`] for a while.

mod aws;
mod ibm;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use reqwest::RequestBuilder;
use reqwest::header::CONTENT_TYPE;
use rusoto_credential::AwsCredentials;
use tokio::time::Instant;

use super::transport::{bounded, chain};
use crate::config::{Auth, Pair};

/// How long a source may take for one answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How much of its life a loan is used before there is another one, less up to a
/// tenth at random, so that the nodes of a cluster do not all ask at once.
const USED: f64 = 0.8;
/// After a renewal that failed, as long as the old loan is good.
const RENEW_AGAIN: Duration = Duration::from_secs(30);
/// What is taken for the life of a loan, whatever is said of it.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// What the store refuses before it is this old was not outdated: it is the
/// rights that are missing, and the source need not be asked each time.
const YOUNG: Duration = Duration::from_secs(5);

/// What a request is authorised with.
pub enum Grant {
    /// It is signed with this.
    Pair(AwsCredentials),
    /// It shows this.
    Bearer(String),
}

/// A grant, and how long it is good for.
struct Loan {
    grant: Grant,
    life: Duration,
}

/// Who lends.
#[async_trait]
trait Source: Send + Sync {
    /// Asks for a loan.
    async fn lend(&self) -> anyhow::Result<Loan>;
}

/// Has a grant for each request.
pub enum Credentials {
    /// Given to us, and read for each request, so that what was rotated is used
    /// at once.
    Given(Pair),
    /// Lent.
    Lent(Arc<Lent>),
}

impl Credentials {
    /// Of that one source. `http` reaches what is far away; what is on this node
    /// is not to be asked through a proxy.
    ///
    /// # Errors
    /// If there can be no client for that.
    pub fn new(
        auth: Auth,
        http: &reqwest::Client,
        unproxied: impl Fn() -> reqwest::Result<reqwest::Client>,
    ) -> reqwest::Result<Credentials> {
        let source: Box<dyn Source> = match auth {
            Auth::Pair(pair) => return Ok(Credentials::Given(pair)),
            Auth::Ibm(ibm) => Box::new(ibm::Iam::new(ibm, http.clone())),
            Auth::WebIdentity(identity) => Box::new(aws::Sts::new(identity, http.clone())),
            Auth::Container(container) => Box::new(aws::Agent::new(container, unproxied()?)),
            Auth::Instance(instance) => Box::new(aws::Metadata::new(instance, unproxied()?)),
        };
        Ok(Credentials::Lent(Arc::new(Lent::by(source))))
    }

    /// What the next request is authorised with.
    pub async fn grant(&self) -> anyhow::Result<Arc<Grant>> {
        match self {
            Credentials::Given(pair) => {
                let token = pair.token.as_ref().map(|token| token.read()).transpose()?;
                let pair = AwsCredentials::new(pair.id.read()?, pair.secret.read()?, token, None);
                Ok(Arc::new(Grant::Pair(pair)))
            }
            Credentials::Lent(lent) => lent.grant().await,
        }
    }

    /// The store refused a request with `grant`. Another one, if there is.
    pub async fn instead_of(&self, grant: &Arc<Grant>) -> Option<Arc<Grant>> {
        match self {
            Credentials::Given(_) => None,
            Credentials::Lent(lent) => lent.instead_of(grant).await,
        }
    }
}

/// What is lent, kept until shortly before its end.
pub struct Lent {
    source: Box<dyn Source>,
    held: Mutex<Option<Held>>,
    /// One at a time, whoever waits for it.
    renewal: Mutex<Option<Renewal>>,
}

type Renewal = Shared<BoxFuture<'static, Result<Arc<Grant>, String>>>;

#[derive(Clone)]
struct Held {
    grant: Arc<Grant>,
    since: Instant,
    /// When it is to be renewed.
    due: Instant,
    end: Instant,
}

impl Lent {
    fn by(source: Box<dyn Source>) -> Lent {
        Lent { source, held: Mutex::default(), renewal: Mutex::default() }
    }

    async fn grant(self: &Arc<Self>) -> anyhow::Result<Arc<Grant>> {
        let (now, held) = (Instant::now(), lock(&self.held).clone());
        match held {
            Some(held) if now < held.due => Ok(held.grant),
            Some(held) if now < held.end => {
                // Nobody waits for it: a source that hangs costs nothing as long as
                // the old loan is good.
                drop(self.renewal());
                Ok(held.grant)
            }
            _ => self.renewal().await.map_err(|err| anyhow!(err)),
        }
    }

    /// The renewal that is under way, or a new one. It goes on if nobody waits.
    fn renewal(self: &Arc<Self>) -> Renewal {
        let mut renewal = lock(&self.renewal);
        if let Some(under_way) = renewal.as_ref().filter(|renewal| renewal.peek().is_none()) {
            return under_way.clone();
        }
        let lent = Arc::clone(self);
        let task = tokio::spawn(async move {
            let renewed = lent.renew().await;
            *lock(&lent.renewal) = None;
            renewed
        });
        let renewed = async move { task.await.unwrap_or_else(|panic| Err(panic.to_string())) };
        renewal.insert(renewed.boxed().shared()).clone()
    }

    async fn renew(&self) -> Result<Arc<Grant>, String> {
        let loan = self.source.lend().await;
        let now = Instant::now();
        let mut held = lock(&self.held);
        match loan {
            Ok(Loan { grant, life }) => {
                log::info!(seconds = life.as_secs(); "credentials were lent to us");
                // Whoever's clock is wrong, the store knows when they end.
                let life = life.clamp(SHORTEST, LONGEST);
                let used = USED * (1.0 - fastrand::f64() / 10.0);
                let grant = Arc::new(grant);
                let due = now + life.mul_f64(used);
                *held = Some(Held { grant: Arc::clone(&grant), since: now, due, end: now + life });
                Ok(grant)
            }
            Err(err) => {
                let err = format!("{err:#}");
                if let Some(held) = held.as_mut().filter(|held| now < held.end) {
                    held.due = now + RENEW_AGAIN;
                    let seconds = (held.end - now).as_secs();
                    log::warn!(seconds; "the credentials could not be renewed, and are good for a while yet: {err}");
                }
                Err(err)
            }
        }
    }

    /// The one that was refused stays as long as there is no other: it may be the
    /// rights that are missing, and the source be out of reach.
    async fn instead_of(self: &Arc<Self>, grant: &Arc<Grant>) -> Option<Arc<Grant>> {
        let held = lock(&self.held).clone();
        match held {
            Some(held) if !Arc::ptr_eq(&held.grant, grant) => Some(held.grant),
            Some(held) if held.since.elapsed() < YOUNG => None,
            _ => self.renewal().await.ok(),
        }
    }
}

/// A form, which keeps what is secret out of the address.
fn post(http: &reqwest::Client, url: String, form: &[(&str, &str)]) -> RequestBuilder {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    http.post(url).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body)
}

/// A source's answer, whatever it says.
async fn ask(request: RequestBuilder) -> anyhow::Result<(u16, Vec<u8>)> {
    let answered = async {
        let response = request.timeout(DEADLINE).send().await.map_err(|err| match err.is_timeout() {
            true => anyhow!("no answer within {} s", DEADLINE.as_secs()),
            false => anyhow!("{}", chain(&err)),
        })?;
        let status = response.status().as_u16();
        anyhow::Ok((status, bounded(response).await?))
    };
    answered.await
}

/// The JSON document of a successful answer.
fn document<T: serde::de::DeserializeOwned>(body: &[u8]) -> anyhow::Result<T> {
    // serde_json's own errors may quote what is secret.
    serde_json::from_slice(body).map_err(|err| {
        anyhow!("the answer cannot be understood (line {}, column {})", err.line(), err.column())
    })
}

/// A refusal of which nothing more is known.
fn refusal(status: u16, body: &[u8]) -> anyhow::Error {
    let said: String = String::from_utf8_lossy(body).chars().take(200).collect();
    refused(status, said.trim())
}

fn refused(status: u16, said: impl fmt::Display) -> anyhow::Error {
    anyhow!("{status} {}", said.to_string().escape_debug())
}

/// What is not ours to know how long it lasts, but when it ends.
fn until(end: &str) -> anyhow::Result<Duration> {
    let end: jiff::Timestamp = end.parse().with_context(|| format!("the end of the credentials, {end:?}"))?;
    // An end that has passed means that our clock is wrong. The store will say so.
    Ok(end.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::{advance, sleep};

    use super::*;

    const LIFE: Duration = Duration::from_secs(3600);

    /// Lends a number, the next one each time; takes a second for it.
    #[derive(Default)]
    struct Bank {
        asked: Arc<AtomicU32>,
        closed: Arc<std::sync::atomic::AtomicBool>,
    }

    #[async_trait]
    impl Source for Bank {
        async fn lend(&self) -> anyhow::Result<Loan> {
            let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
            sleep(Duration::from_secs(1)).await;
            anyhow::ensure!(!self.closed.load(Ordering::Relaxed), "closed");
            Ok(Loan { grant: Grant::Bearer(number.to_string()), life: LIFE })
        }
    }

    async fn number(lent: &Arc<Lent>) -> Result<String, String> {
        match lent.grant().await.map_err(|err| err.to_string())?.as_ref() {
            Grant::Bearer(number) => Ok(number.clone()),
            Grant::Pair(_) => unreachable!(),
        }
    }

    /// Lets a renewal in the background end.
    async fn settle() {
        sleep(Duration::from_secs(2)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_are_one_request_and_a_loan_is_used_for_long() {
        let bank = Bank::default();
        let asked = Arc::clone(&bank.asked);
        let lent = Arc::new(Lent::by(Box::new(bank)));
        let (one, two, three) = tokio::join!(number(&lent), number(&lent), number(&lent));
        assert_eq!((one.unwrap(), two.unwrap(), three.unwrap()), ("1".into(), "1".into(), "1".into()));
        advance(LIFE.mul_f64(0.7)).await;
        assert_eq!(number(&lent).await.unwrap(), "1");
        settle().await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_renewed_before_its_end_and_nobody_waits_for_that() {
        let bank = Bank::default();
        let asked = Arc::clone(&bank.asked);
        let lent = Arc::new(Lent::by(Box::new(bank)));
        number(&lent).await.unwrap();
        advance(LIFE.mul_f64(0.81)).await;
        let now = Instant::now();
        assert_eq!(number(&lent).await.unwrap(), "1");
        assert_eq!(number(&lent).await.unwrap(), "1");
        assert_eq!(now.elapsed(), Duration::ZERO);
        settle().await;
        assert_eq!(number(&lent).await.unwrap(), "2");
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_fails_costs_nothing_until_the_end_and_is_tried_now_and_then() {
        let bank = Bank::default();
        let (asked, closed) = (Arc::clone(&bank.asked), Arc::clone(&bank.closed));
        let lent = Arc::new(Lent::by(Box::new(bank)));
        number(&lent).await.unwrap();
        closed.store(true, Ordering::Relaxed);
        advance(LIFE.mul_f64(0.81)).await;
        for _ in 0..3 {
            assert_eq!(number(&lent).await.unwrap(), "1");
            settle().await;
        }
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        advance(RENEW_AGAIN).await;
        assert_eq!(number(&lent).await.unwrap(), "1");
        settle().await;
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        advance(LIFE.mul_f64(0.19)).await;
        assert_eq!(number(&lent).await.unwrap_err(), "closed");
        closed.store(false, Ordering::Relaxed);
        assert_eq!(number(&lent).await.unwrap(), "5");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_refuses_is_replaced_unless_it_is_new() {
        let lent = Arc::new(Lent::by(Box::new(Bank::default())));
        let first = lent.grant().await.unwrap();
        assert!(lent.instead_of(&first).await.is_none(), "what was lent just now is not outdated");
        advance(YOUNG).await;
        let second = lent.instead_of(&first).await.unwrap();
        assert_eq!(number(&lent).await.unwrap(), "2");
        assert!(Arc::ptr_eq(&lent.instead_of(&first).await.unwrap(), &second), "there is another one by now");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_refuses_is_better_than_nothing() {
        let bank = Bank::default();
        let closed = Arc::clone(&bank.closed);
        let lent = Arc::new(Lent::by(Box::new(bank)));
        let first = lent.grant().await.unwrap();
        closed.store(true, Ordering::Relaxed);
        advance(YOUNG).await;
        assert!(lent.instead_of(&first).await.is_none());
        assert_eq!(number(&lent).await.unwrap(), "1");
    }
}
