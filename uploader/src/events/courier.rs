//! Takes Events to the API server, one after the other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use backon::{BackoffBuilder, ExponentialBuilder};
use protocol::cluster::ApiServer;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};

use super::Event;
use super::storm::Storm;
use crate::config::EventsConfig;
use crate::metrics::EventCounter;

/// For one attempt.
const DEADLINE: Duration = Duration::from_secs(10);
/// After the first attempt: some seconds, for a token that is replaced or an
/// API server that is restarted. Longer is not worth it.
const RETRIES: usize = 3;
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// An API server that wants to be left alone for longer is asked all the same.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// How often it is looked what has been waiting in a storm.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What sends Events.
pub struct Courier {
    server: ApiServer,
    node: String,
    told: mpsc::Receiver<Event>,
    storm: Arc<Mutex<Storm>>,
    counter: EventCounter,
    /// With the certificates that it trusts.
    http: Option<(String, Client)>,
    /// The last thing that was wrong, said once.
    complaint: Option<String>,
}

/// Why an Event was not taken.
struct Refusal {
    why: anyhow::Error,
    /// After which time another attempt makes sense; `None` if none does.
    again: Option<Duration>,
}

impl From<anyhow::Error> for Refusal {
    /// What is no answer may become one.
    fn from(why: anyhow::Error) -> Refusal {
        Refusal { why, again: Some(Duration::ZERO) }
    }
}

impl Courier {
    /// Sends what is `told`, and what waits in `storm`.
    pub(super) fn new(
        config: EventsConfig,
        told: mpsc::Receiver<Event>,
        storm: Arc<Mutex<Storm>>,
        counter: EventCounter,
    ) -> Courier {
        // An error means that there is one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let EventsConfig { server, node } = config;
        Courier { server, node, told, storm, counter, http: None, complaint: None }
    }

    /// Sends for ever.
    pub async fn run(mut self) {
        let mut look = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                Some(event) = self.told.recv() => self.deliver(&event).await,
                _ = look.tick() => {
                    let due = self.storm.lock().unwrap_or_else(PoisonError::into_inner).due(Instant::now());
                    for event in due {
                        self.deliver(&event).await;
                    }
                }
            }
        }
    }

    async fn deliver(&mut self, event: &Event) {
        let delays = ExponentialBuilder::default().with_min_delay(FIRST_DELAY).with_max_times(RETRIES);
        let mut delays = delays.with_jitter().build();
        let refusal = loop {
            let Err(refusal) = self.post(event).await else { break None };
            let Some((asked, delay)) = refusal.again.zip(delays.next()) else { break Some(refusal.why) };
            sleep(delay.max(asked.min(LONGEST_DELAY))).await;
        };
        let complaint = refusal.map(|why| format!("{why:#}"));
        match &complaint {
            None => self.counter.sent(),
            Some(_) => self.counter.failed(),
        }
        if complaint != self.complaint {
            match &complaint {
                None => log::info!("the API server takes events again"),
                Some(why) => log::warn!(dump:% = event.id; "no event on its pod: {why}"),
            }
        }
        self.complaint = complaint;
    }

    async fn post(&mut self, event: &Event) -> Result<(), Refusal> {
        let namespace = &event.subject.namespace;
        let url = format!("{}/api/v1/namespaces/{namespace}/events", self.server.url());
        let request = self.client()?.post(url).header(CONTENT_TYPE, "application/json");
        let token = self.server.token().map_err(anyhow::Error::from)?;
        let request = request.bearer_auth(token).body(event.body(&self.node).to_string());
        let response = request.send().await.map_err(anyhow::Error::from)?;
        let status = response.status().as_u16();
        let again = match status {
            // 409: it has it, from an attempt whose answer was lost.
            200..300 | 409 => return Ok(()),
            // 401: the token is replaced before it ends, but we may be slow.
            401 | 408 | 429 | 500.. => Some(retry_after(&response)),
            _ => None,
        };
        let message = message(response).await;
        Err(Refusal { why: anyhow!("the API server answers with {status}{message}"), again })
    }

    /// A client that trusts the certificates of now.
    fn client(&mut self) -> anyhow::Result<Client> {
        let authority = self.server.authority()?;
        match &self.http {
            Some((trusted, http)) if *trusted == authority => Ok(http.clone()),
            _ => {
                let certificates = Certificate::from_pem_bundle(authority.as_bytes())
                    .context("reading the certificates of the API server")?;
                let http = Client::builder()
                    .user_agent(concat!("coredump-uploader/", env!("CARGO_PKG_VERSION")))
                    .tls_certs_only(certificates)
                    .redirect(Policy::none())
                    // Who is asked is next door, whatever way there is to the store.
                    .no_proxy()
                    .timeout(DEADLINE)
                    .build()
                    .context("making an HTTP client")?;
                self.http = Some((authority, http.clone()));
                Ok(http)
            }
        }
    }
}

fn retry_after(response: &Response) -> Duration {
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// What it says besides, as far as that comes in one piece.
async fn message(mut response: Response) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    let said = response.chunk().await.ok().flatten().unwrap_or_default();
    let said = serde_json::from_slice::<Status>(&said).map(|status| status.message).unwrap_or_default();
    if said.is_empty() { said } else { format!(": {}", said.escape_debug()) }
}
