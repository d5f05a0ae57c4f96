// A bot of the family in Node: logs in as a random user, creates a channel without a clock (trap 7), publishes at a rate, and checks
// that everything acknowledged comes back on the channel, once and in order.
import { CLIENT_FLAGS, Client } from "./client.mjs";
import { Failed, SUCCESS, emit, flags, flat, run, sleep } from "./lib.mjs";

function summary(acknowledged, received) {
  const position = new Map(acknowledged.map((text, index) => [text, index]));
  const order = received.filter((text) => position.has(text)).map((text) => position.get(text));
  return {
    acknowledged: acknowledged.length,
    received: received.length,
    missing: acknowledged.filter((text) => !received.includes(text)),
    duplicates: [...new Set(received.filter((text, index) => received.indexOf(text) !== index))],
    in_order: order.every((place, index) => index === 0 || order[index - 1] <= place),
  };
}

const WARM_UP = "aquecimento";

/// Publishes until --warm-up messages in a row were acknowledged and came back: a probe proves the subscription at the proxy only,
/// not at the servers' PUBs behind it, and a server that just joined may not know the user yet.
async function warmUp(bot, args, user, channel) {
  const deadline = Date.now() + args.settle * 1000;
  let number = 0;
  for (let streak = 0; streak < args["warm-up"]; number++) {
    if (Date.now() >= deadline) throw new Failed(`no ${args["warm-up"]} warm-up messages in a row came back within ${args.settle} s`);
    const message = `${WARM_UP} ${number}`;
    const reply = await bot.exchange(bot.envelope("publish", { user, channel, message }, {}), {});
    streak = reply && (await bot.waitFor(channel, { user, message }, 200)) ? streak + 1 : 0;
  }
  emit("warm", { messages: number });
}

async function publishAll(bot, args, user, channel) {
  const acknowledged = [];
  for (let number = 0; number < args.messages; number++) {
    const message = `${user} ${String(number).padStart(6, "0")}`;
    const reply = await bot.exchange(bot.envelope("publish", { user, channel, message }, {}), {});
    const data = reply?.data ?? reply;
    if (!data) emit("unanswered", { message });
    else if (SUCCESS.includes(data.status)) {
      acknowledged.push(message);
      emit("acknowledged", { message, clock: data.clock ?? 0 });
    } else emit("refused", { message, data });
    await sleep(1000 / args.rate);
  }
  return acknowledged;
}

async function main(args) {
  const bot = new Client(args);
  const random = () => String(Math.floor(Math.random() * 1e6)).padStart(6, "0");
  const user = args.user || `bot${random()}`;
  const channel = args.channel || `canal${random()}`;
  const once = { within_s: args["request-timeout"] };
  await bot.login({ user, ...once });
  // Another bot may have created the channel, which most servers of the family call an error: so no expectation here.
  await bot.channel({ channel, omit: ["clock"], expect: {}, ...once });
  await bot.subscribe({ topic: channel, probe: args["proxy-pub"] !== "" });
  emit("ready", { user, channel });
  await warmUp(bot, args, user, channel);
  const acknowledged = await publishAll(bot, args, user, channel);
  const deadline = Date.now() + args.settle * 1000;
  let told;
  for (;;) {
    const came = bot.inbox.filter((entry) => entry.topic === channel).map((entry) => flat(entry.data));
    told = summary(acknowledged, came.filter((data) => data.user === user && !data.message.startsWith(WARM_UP)).map((data) => data.message));
    if (told.missing.length === 0 || Date.now() >= deadline) break;
    await sleep(20);
  }
  emit("summary", { user, channel, sent: args.messages, ...told });
  const checks = [
    ["refusals", acknowledged.length === args.messages, "not every message was acknowledged"],
    ["loss", told.missing.length === 0, `${told.missing.length} acknowledged messages never came`],
    ["duplicates", told.duplicates.length === 0, `${told.duplicates.length} messages came twice`],
    ["disorder", told.in_order, "messages came out of order"],
  ];
  for (const [what, holds, complaint] of checks) if (!holds && !args[`allow-${what}`]) throw new Failed(complaint);
}

run(main, flags({
  ...CLIENT_FLAGS, broker: "tcp://127.0.0.1:5555", "proxy-sub": "tcp://127.0.0.1:5558", channel: "", "warm-up": 1, messages: 10, rate: 20, settle: 10,
  "allow-refusals": false, "allow-loss": false, "allow-duplicates": false, "allow-disorder": false,
}));
