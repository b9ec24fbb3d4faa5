//! IBM Cloud IAM: "Identity token" in its API reference.

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use reqwest::header::ACCEPT;
use serde::Deserialize;

use super::{Grant, Loan, Source, ask, document, post, refusal, refused};
use crate::config::{Ibm, IbmProof};

const API_KEY: &str = "urn:ibm:params:oauth:grant-type:apikey";
const COMPUTE_RESOURCE: &str = "urn:ibm:params:oauth:grant-type:cr-token";

pub struct Iam {
    ibm: Ibm,
    http: reqwest::Client,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    /// Seconds.
    expires_in: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    error_code: String,
    error_message: String,
}

impl Iam {
    pub fn new(ibm: Ibm, http: reqwest::Client) -> Iam {
        Iam { ibm, http }
    }

    async fn token(&self) -> anyhow::Result<Loan> {
        let url = format!("{}/identity/token", self.ibm.iam);
        let request = match &self.ibm.proof {
            IbmProof::ApiKey(key) => {
                post(&self.http, url, &[("grant_type", API_KEY), ("apikey", &key.read()?)])
            }
            IbmProof::Profile { id, token } => {
                let token = token.read()?;
                let form = [("grant_type", COMPUTE_RESOURCE), ("cr_token", &token), ("profile_id", id)];
                post(&self.http, url, &form)
            }
        };
        let (status, body) = ask(request.header(ACCEPT, "application/json")).await?;
        if status != 200 {
            return Err(match document::<Failure>(&body) {
                Ok(failure) => {
                    refused(status, format_args!("{}: {}", failure.error_code, failure.error_message))
                }
                Err(_) => refusal(status, &body),
            });
        }
        let token: Token = document(&body)?;
        Ok(Loan { grant: Grant::Bearer(token.access_token), life: Duration::from_secs(token.expires_in) })
    }
}

#[async_trait]
impl Source for Iam {
    async fn lend(&self) -> anyhow::Result<Loan> {
        self.token().await.with_context(|| match &self.ibm.proof {
            IbmProof::ApiKey(key) => format!("asking {} for a token for the API key of {key}", self.ibm.iam),
            IbmProof::Profile { id, .. } => format!("asking {} for a token of {id}", self.ibm.iam),
        })
    }
}
