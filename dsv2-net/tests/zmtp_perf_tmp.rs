//! temporary measurement
use dsv2_net::Endpoint;
use dsv2_net::engine::*;
use dsv2_net::zmtp::*;
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

async fn dial(ep: &str, t: SocketType) -> Connection {
    let ep: Endpoint = ep.parse().unwrap();
    for _ in 0..500 {
        if let Ok(s) = dsv2_net::endpoint::connect(&ep, Default::default()).await {
            return Connection::establish(s, ep.to_string(), &Arc::new(LocalSocket::new(t, Limits::default()))).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!()
}
#[test] #[ignore]
fn broker() {
    let rt = if std::env::var("ST").is_ok() { tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap() } else { tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap() };
    rt.block_on(async {
        let subs: Arc<RwLock<Vec<Outbox>>> = Arc::default();
        let s2 = subs.clone();
        let chunk = std::env::var("CHUNK").ok().and_then(|v| v.parse().ok()).unwrap_or(128 << 10);
        let lim = Limits { read_chunk_bytes: chunk, ..Limits::default() };
        let xp = Arc::new(LocalSocket::new(SocketType::Xpub, lim.clone()));
        let xs = Arc::new(LocalSocket::new(SocketType::Xsub, lim));
        let _l = Listener::bind(&"tcp://127.0.0.1:15558".parse().unwrap(), xp.clone(), move |mut c: Connection| { let s = s2.clone(); async move {
            let mut b = Batch::new();
            while c.next_batch(&mut b).await.is_ok() { for i in b.items() { if matches!(i, Item::Subscribe(_)) { s.write().unwrap().push(c.outbox().clone()); } } }
            s.write().unwrap().retain(|o| !o.is_closed());
        }}).await.unwrap();
        let _m = Listener::bind(&"tcp://127.0.0.1:15557".parse().unwrap(), xs.clone(), move |mut c: Connection| { let s = subs.clone(); async move {
            c.outbox().append_wire(&Command::subscription(b"", true, true), 0).unwrap(); c.outbox().flush();
            let mut b = Batch::new();
            while c.next_batch(&mut b).await.is_ok() {
                let s = s.read().unwrap();
                for o in s.iter() { if o.append_run(&b, 0..b.len()).is_err() { eprintln!("full"); } o.flush(); }
            }
        }}).await.unwrap();
        loop { tokio::time::sleep(Duration::from_secs(2)).await; 
          if std::env::var("V").is_ok() { eprintln!("xs reads {} bytes {} xp writes {} bytes {} refused {}", xs.counters().reads.get(), xs.counters().bytes_in.get(), xp.counters().writes.get(), xp.counters().bytes_out.get(), xp.counters().messages_refused.get()); } }
    });
}
#[test] #[ignore]
fn ends() {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let nsub: usize = std::env::var("NSUB").unwrap_or("1".into()).parse().unwrap();
    let window: u64 = std::env::var("WIN").unwrap_or("10000".into()).parse().unwrap();
    let secs = 3.0;
    rt.block_on(async {
        let got: Arc<Vec<AtomicU64>> = Arc::new((0..nsub).map(|_| AtomicU64::new(0)).collect());
        let n = Arc::new(Notify::new());
        for i in 0..nsub {
            let mut c = dial("tcp://127.0.0.1:15558", SocketType::Sub).await;
            c.outbox().append_wire(&Command::subscription(b"t", true, c.peer().speaks_3_1()), 0).unwrap(); c.outbox().flush();
            let (got, n) = (got.clone(), n.clone());
            tokio::spawn(async move { let mut b = Batch::new(); while c.next_batch(&mut b).await.is_ok() { got[i].fetch_add(b.len() as u64, SeqCst); n.notify_one(); } });
        }
        let mut p = dial("tcp://127.0.0.1:15557", SocketType::Pub).await;
        let o = p.outbox().clone();
        tokio::spawn(async move { let mut b = Batch::new(); while p.next_batch(&mut b).await.is_ok() {} });
        tokio::time::sleep(Duration::from_millis(500)).await;
        let m = Message::from_frames([&b"t"[..], &[7u8; 126]]);
        let mut sent = 0u64; let t = Instant::now();
        let mut lastp = (Instant::now(), 0);
        while t.elapsed().as_secs_f64() < secs {
            let min = got.iter().map(|g| g.load(SeqCst)).min().unwrap();
            if min != lastp.1 { lastp = (Instant::now(), min) } else if lastp.0.elapsed() > Duration::from_secs(2) { panic!("stuck sent {sent} min {min}") }
            let room = (min + window).saturating_sub(sent);
            if room < window / 4 { let _ = tokio::time::timeout(Duration::from_millis(100), n.notified()).await; continue; }
            for k in 0..room { if k % 500 == 499 { o.flush(); } o.append(&m).unwrap(); }
            o.flush();
            sent += room; tokio::task::yield_now().await;
        }
        let el = t.elapsed().as_secs_f64();
        let tot: u64 = got.iter().map(|g| g.load(SeqCst)).sum();
        println!("sent {sent} tot {tot} ok {} ", tot <= sent * nsub as u64); println!("subs {nsub} deliveries/s {:.0}  msgs/s {:.0}", tot as f64 / el, tot as f64 / el / nsub as f64);
    });
}
