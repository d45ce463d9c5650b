"use strict";
// Shows /api/v1/status as it changes. Text goes in as text, never as markup: peers choose some of it.

const COLOURS = ["#3b7dd8", "#e08a1e", "#2f9e6e", "#b455b6", "#c94f4f", "#5f6caf", "#8a9a2b", "#2aa1b3"];
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${number.format(count)} ${units[unit]}`;
}

function duration(seconds) {
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds / 3600) % 24, minutes = Math.floor(seconds / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min` : `${seconds} s`;
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function rectangle(x, width, colour) {
  const made = document.createElementNS(SVG, "rect");
  made.setAttribute("x", x); made.setAttribute("width", width); made.setAttribute("height", 1);
  made.setAttribute("fill", colour);
  return made;
}

function drawing(width, className, parts) {
  const made = document.createElementNS(SVG, "svg");
  made.setAttribute("viewBox", `0 0 ${width} 1`);
  made.setAttribute("preserveAspectRatio", "none");
  if (className) made.setAttribute("class", className);
  made.append(...parts);
  return made;
}

const colourOf = (source) => COLOURS[source % COLOURS.length];

function strip(transfer) {
  const cells = transfer.strip ?? [];
  const parts = cells.flatMap((source, at) => (source === null ? [] : [rectangle(at, 1.02, colourOf(source))]));
  const picture = drawing(Math.max(cells.length, 1), "strip", parts);
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", "which parts came from whom");
  return picture;
}

function transferView(transfer) {
  const view = element("div", undefined, "transfer");
  const head = element("p");
  const share = transfer.size_bytes > 0 ? transfer.present_bytes / transfer.size_bytes : 1;
  head.append(
    element("span", transfer.name ?? transfer.digest, "digest"),
    element("span", `${bytes(transfer.present_bytes)} of ${bytes(transfer.size_bytes)} (${Math.floor(share * 100)} %)`));
  const legend = element("div", undefined, "legend");
  (transfer.sources ?? []).forEach((source, index) => {
    const entry = element("span");
    entry.append(drawing(1, "", [rectangle(0, 1, colourOf(index))]), `${source.name} ${bytes(source.bytes)}`);
    legend.append(entry);
  });
  view.append(head, strip(transfer), legend);
  return view;
}

function peerView(peer) {
  const row = element("tr");
  const id = element("td", `…${peer.peer_id.slice(-8)}`, "mono");
  id.title = peer.peer_id;
  const trip = peer.rtt_ms === null ? "-" : `${number.format(peer.rtt_ms)} ms`;
  row.append(id, element("td", peer.scope), element("td", trip), element("td", peer.address, "mono"));
  return row;
}

function originView(origin) {
  const line = element("li");
  line.append(
    element("span", origin.healthy ? "● " : "○ ", origin.healthy ? "good" : "bad"),
    element("span", origin.url, "mono"),
    element("span", origin.healthy ? " answers" : " does not answer, tried again shortly"));
  if (origin.last_error) line.append(element("div", `last error: ${origin.last_error}`, "legend"));
  return line;
}

function showLive(live) {
  byId("live-section").hidden = !live;
  if (!live) return;
  const hashing = live.pending > 0 ? `, ${live.pending} to be hashed` : "";
  byId("live").textContent = live.problem ? `The store of ${live.root} cannot be read:`
    : `${live.offered} paths (${bytes(live.offered_bytes)}) of ${live.root} can be offered${hashing}`;
  const problems = [live.problem, live.bad > 0 ? `${live.bad} paths are not what Nix noted and never offered` : null];
  byId("live-problem").textContent = problems.filter((problem) => problem).join("; ");
  const meter = byId("live-meter");
  meter.hidden = live.pending === 0;
  meter.max = Math.max(1, live.offered + live.pending); meter.value = live.offered;
}

function show(status) {
  const { totals, store } = status;
  const out = totals.served_client_bytes + totals.served_peer_bytes;
  byId("version").textContent = status.version;
  byId("saved").textContent = bytes(Math.max(0, out - totals.received_origin_bytes));
  byId("from-origin").textContent = bytes(totals.received_origin_bytes);
  byId("from-peers").textContent = bytes(totals.received_peer_bytes);
  byId("to-clients").textContent = bytes(totals.served_client_bytes);
  byId("to-peers").textContent = bytes(totals.served_peer_bytes);
  byId("uptime").textContent = duration(status.uptime_seconds);
  byId("peer-count").textContent = String(status.peers.length);
  const none = (text) => [element("p", text, "empty")];
  byId("transfers").replaceChildren(...(status.transfers.length ? status.transfers.map(transferView) : none("none under way")));
  byId("peers").replaceChildren(...status.peers.map(peerView));
  byId("origins").replaceChildren(...(status.origins.length ? status.origins.map(originView) : none("none configured")));
  const limit = store.max_bytes === null ? "no limit" : `limit ${bytes(store.max_bytes)}`;
  byId("store").textContent = `${bytes(store.bytes)} in ${store.blobs} blobs, ${limit}`;
  showLive(status.nix_store);
  const meter = byId("store-meter");
  meter.hidden = store.max_bytes === null;
  if (store.max_bytes !== null) { meter.max = store.max_bytes; meter.value = store.bytes; }
}

function say(text, className) {
  const connection = byId("connection");
  connection.textContent = text;
  connection.className = className;
}

const events = new EventSource("/api/v1/status/events");
events.addEventListener("message", (event) => { say("live", "live"); show(JSON.parse(event.data)); });
events.addEventListener("error", () => say("connection lost, trying again", "lost"));
