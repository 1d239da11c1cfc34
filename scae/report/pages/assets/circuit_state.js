// What the reader has chosen: kept in the address behind #, so that a link, or going back, restores it.
"use strict";

const CROWD = { nodes: 800, edges: 3000 }; // a graph of more opens with the most influential of them
const CROWD_SHARE = 0.9;
const NOTHING = "-"; // in an address: nothing is chosen, not even what the file proposes

/** selected: a node or null; pinned: nodes in the order of pinning; groups: [{name, nodes}]; shares: of influence kept. */
class Choices {
  constructor(graph) {
    this.graph = graph;
    const usual = (key) => (graph[key].length > CROWD[key] ? CROWD_SHARE : 1);
    this.usual = { nodes: usual("nodes"), edges: usual("edges") };
    this.listeners = [];
    this.read(location.hash.length > 1 ? location.hash.slice(1) : null);
    addEventListener("hashchange", () => {
      if (location.hash.slice(1) === (this.written() || NOTHING)) return;
      this.read(location.hash.slice(1));
      this.tell();
    });
  }

  onChange(listener) {
    this.listeners.push(listener);
  }

  tell() {
    for (const listener of this.listeners) listener(this);
  }

  /** null: as the file has it. */
  read(hash) {
    const { byId, file } = this.graph;
    const known = (ids) => ids.map((id) => byId.get(id)).filter(Boolean);
    const asked = new URLSearchParams(hash ?? "");
    const share = (key) => {
      const value = Number.parseFloat(asked.get(key));
      return value >= 0 && value <= 1 ? value : this.usual[key];
    };
    this.shares = { nodes: share("nodes"), edges: share("edges") };
    const given = hash === null ? (file.qParams ?? {}) : {};
    this.selected = byId.get(asked.get("at") ?? given.clickedId) ?? null;
    const pinned = hash === null ? (given.pinnedIds ?? []) : (asked.get("pins") ?? "").split("~");
    this.pinned = new Set(known(pinned));
    const groups = hash === null ? (given.supernodes ?? []) : asked.getAll("group").map((text) => text.split("~"));
    this.groups = [];
    for (const [name, ...ids] of groups) {
      const nodes = known(ids);
      nodes.forEach((node) => this.pinned.add(node));
      if (nodes.length) this.groups.push({ name: String(name), nodes });
    }
  }

  written() {
    const asked = new URLSearchParams();
    if (this.selected) asked.set("at", this.selected.id);
    if (this.pinned.size) asked.set("pins", [...this.pinned].map((node) => node.id).join("~"));
    for (const { name, nodes } of this.groups) asked.append("group", [tidyName(name), ...nodes.map((node) => node.id)].join("~"));
    for (const key of ["nodes", "edges"]) {
      if (this.shares[key] !== this.usual[key]) asked.set(key, String(this.shares[key]));
    }
    return asked.toString();
  }

  /** step: whether going back comes to what was before. */
  write(step) {
    const hash = `#${this.written() || NOTHING}`; // a bare # would scroll to the top
    if (hash === location.hash) return;
    if (step) location.hash = hash;
    else location.replace(hash);
  }

  select(node) {
    if (node === this.selected) return;
    this.selected = node;
    this.write(true);
    this.tell();
  }

  pin(node, on = !this.pinned.has(node)) {
    if (on) this.pinned.add(node);
    else {
      this.pinned.delete(node);
      this.ungroup([node]);
    }
    this.write(false);
    this.tell();
  }

  unpinAll() {
    this.pinned.clear();
    this.groups = [];
    this.write(false);
    this.tell();
  }

  /** These nodes are one from now on; they leave the groups they were in. An empty name takes them out of all groups. */
  group(name, nodes) {
    this.ungroup(nodes);
    const tidy = tidyName(name);
    const there = this.groups.find((group) => group.name === tidy);
    if (there) there.nodes.push(...nodes);
    else if (tidy) this.groups.push({ name: tidy, nodes: [...nodes] });
    this.write(false);
    this.tell();
  }

  ungroup(nodes) {
    for (const group of this.groups) group.nodes = group.nodes.filter((node) => !nodes.includes(node));
    this.groups = this.groups.filter((group) => group.nodes.length);
  }

  groupOf(node) {
    return this.groups.find((group) => group.nodes.includes(node)) ?? null;
  }

  keep(key, share) {
    this.shares[key] = share;
    this.write(false);
    this.tell();
  }
}

/** Without what separates names and nodes in an address. */
function tidyName(name) {
  return name.replaceAll("~", "-").trim();
}
