//! PostgreSQL: a table as a log, each insertion a transaction of its own, many on their way on one connection.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_postgres::{Client, NoTls, Statement};

use super::process::{Server, folder, free_ports, give};
use super::{Keeper, Publisher, Running, System};
use crate::Result;

/// Whom the package makes; the server refuses to run as root.
const USER: &str = "postgres";

pub(crate) struct Postgres;

struct Instance {
    server: Server,
    config: String,
}

#[async_trait]
impl System for Postgres {
    fn name(&self) -> &'static str {
        "postgresql"
    }

    fn durability(&self) -> &'static str {
        "a commit each: synced"
    }

    async fn keep(&self) -> Result<Box<dyn Keeper>> {
        let (dir, port) = (folder()?, free_ports(1)?);
        give(dir.path(), USER)?;
        let data = dir.path().join("data");
        let made = as_user(&bin()?.join("initdb"))
            .args(["--auth", "trust", "--username", USER, "--pgdata"])
            .arg(&data)
            .stdout(std::process::Stdio::null())
            .status()?;
        if !made.success() {
            return Err("initdb failed".into());
        }
        let mut command = as_user(&bin()?.join("postgres"));
        command.arg("-D").arg(&data).args(["-h", "127.0.0.1", "-p", &port.to_string(), "-k"]).arg(dir.path());
        let mut server = Server::start(command, dir)?.ended_by("-QUIT");
        server.listens(port).await?;
        let config = format!("host=127.0.0.1 port={port} user={USER} dbname=postgres");
        let instance = Instance { server, config };
        let table = "create table if not exists log (id bigserial primary key, message bytea not null)";
        instance.connect().await?.execute(table, &[]).await?;
        Ok(Box::new(instance))
    }
}

fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--clear-groups"]).arg(program).current_dir("/");
    command
}

/// Where the package puts what is not on the path: the newest version.
fn bin() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").map_err(|_| "PostgreSQL is not installed")?;
    let newest = versions.flatten().map(|entry| entry.path()).max().ok_or("PostgreSQL is not installed")?;
    Ok(newest.join("bin"))
}

impl Instance {
    async fn connect(&self) -> Result<Client> {
        let begun = std::time::Instant::now();
        loop {
            match tokio_postgres::connect(&self.config, NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return Ok(client);
                }
                // It listens before it has recovered.
                Err(error) if begun.elapsed().as_secs() > 20 => return Err(error.into()),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    }
}

#[async_trait]
impl Running for Instance {
    fn cpu_seconds(&self) -> f64 {
        self.server.cpu_seconds()
    }

    async fn publisher(&self) -> Result<Arc<dyn Publisher>> {
        let client = self.connect().await?;
        let insert = client.prepare("insert into log (message) values ($1)").await?;
        Ok(Arc::new(Inserter { client, insert }))
    }
}

#[async_trait]
impl Keeper for Instance {
    fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    async fn read(&self) -> Result<()> {
        self.connect().await?.query_one("select message from log order by id desc limit 1", &[]).await?;
        Ok(())
    }

    /// A connection commits one row after the other.
    fn fill_by(&self) -> (usize, usize) {
        (16, 64)
    }
}

struct Inserter {
    client: Client,
    insert: Statement,
}

#[async_trait]
impl Publisher for Inserter {
    async fn publish(&self, payload: Bytes) -> Result<()> {
        self.client.execute(&self.insert, &[&&payload[..]]).await?;
        Ok(())
    }
}
