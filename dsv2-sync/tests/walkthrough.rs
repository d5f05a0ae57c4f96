//! The printed trace in `docs/walkthrough.md` is what the machines do: `UPDATE_GOLDEN=1 cargo nextest run -p dsv2-sync
//! --test walkthrough` writes it anew, to be read before it is kept.

use std::path::Path;
use std::time::Duration;

use dsv2_core::{Feed, Mono, Now};
use dsv2_sync::session::{CallOptions, Command, Cursor, Order};
use dsv2_sync::sim::{Act, Happened, Program, SimConfig, Simulation};

const BEGIN: &str = "<!-- trace: written by dsv2-sync/tests/walkthrough.rs -->\n```text\n";
const END: &str = "```\n<!-- end of the trace -->";

/// Makes the channel, waits until all is quiet, and publishes.
#[derive(Default)]
struct Ana {
    publish_at: Option<Mono>,
    published: bool,
}

impl Program for Ana {
    fn step(&mut self, now: Now, event: Happened, out: &mut Vec<Act>) {
        let channel = || "dev".parse().expect("a name");
        let mut call = |token, command| out.push(Act::Call { token, command, options: CallOptions::default() });
        match event {
            Happened::Started { .. } => call(1, Command::CreateChannel { channel: channel() }),
            Happened::Done { token: 1, .. } => self.publish_at = Some(now.mono + Duration::from_millis(2_000)),
            Happened::Wake => {
                self.publish_at = None;
                call(2, Command::Publish { channel: channel(), message: "oi".into() });
            }
            Happened::Done { token: 2, result } => self.published = result.is_ok(),
            _ => {}
        }
    }
    fn deadline(&self) -> Option<Mono> {
        self.publish_at
    }
    fn is_done(&self) -> bool {
        self.published
    }
}

struct Bob;

impl Program for Bob {
    fn step(&mut self, _now: Now, event: Happened, out: &mut Vec<Act>) {
        if matches!(event, Happened::Started { .. }) {
            let feeds = vec![Feed::Channel("dev".parse().expect("a name"))];
            let command = Command::Subscribe { feeds, cursor: Cursor::Beginning, order: Order::Arrival };
            out.push(Act::Call { token: 1, command, options: CallOptions::default() });
        }
    }
}

/// From the call to the publish, to its acknowledgement and delivery.
fn trace() -> String {
    let mut simulation = Simulation::new(SimConfig::quiet(4));
    simulation.add(Box::new(Ana::default()));
    simulation.add(Box::new(Bob));
    let told = simulation.run_told();
    assert_eq!(told.report.violations, Vec::<String>::new());
    let lines = told.trace.iter().skip_while(|line| !line.contains("calls publish"));
    let mut ends = 0;
    let lines = lines.take_while(|line| {
        let over = ends == 2;
        ends += u32::from(line.contains("delivers \"oi\"") || line.contains("u0         is told"));
        !over
    });
    lines.map(|line| format!("{}\n", line.trim())).collect()
}

#[test]
fn the_page_prints_what_happens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/walkthrough.md");
    let page = std::fs::read_to_string(&path).expect("the page is readable");
    let (head, rest) = page.split_once(BEGIN).expect("the page has a place for the trace");
    let (printed, tail) = rest.split_once(END).expect("the trace ends");
    let trace = trace();
    for stop in 1..=9 {
        assert!(trace.lines().any(|line| line.contains(&format!(" ms  {stop}  "))), "stop {stop} is missing:\n{trace}");
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{trace}{END}{tail}")).expect("the page is writable");
        return;
    }
    assert_eq!(printed, trace, "docs/walkthrough.md prints something else: see the head of this test");
}
