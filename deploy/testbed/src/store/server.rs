//! What a front stands on: a port of loopback, and threads of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::front::Front;
use super::tls::Acceptors;

/// A front that takes connections. Stops on drop.
pub(crate) struct Server {
    addr: SocketAddr,
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    stopped: mpsc::Receiver<()>,
}

impl Server {
    pub(crate) fn start(front: Arc<Front>, addr: SocketAddr, tls: Option<Acceptors>) -> Result<Server> {
        let listener = TcpListener::bind(addr).with_context(|| format!("listening at {addr}"))?;
        listener.set_nonblocking(true)?;
        let addr = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (stop, stopping) = oneshot::channel();
        let (has_stopped, stopped) = mpsc::channel();
        let listener = {
            let _within = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        runtime.spawn(async move {
            tokio::select! {
                () = front.serve(&listener, tls) => {}
                _ = stopping => {}
            }
            drop(listener);
            // Whoever dropped the server may have gone already.
            let _ = has_stopped.send(());
        });
        Ok(Server { addr, runtime: Some(runtime), stop: Some(stop), stopped })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Does something among the server's own threads.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.as_ref().expect("only drop takes the runtime").spawn(work);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The port is free when this returns, so that a server can come back.
        drop(self.stop.take());
        let _ = self.stopped.recv();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}
