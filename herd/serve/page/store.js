// Conversations, kept in this browser. Each is a tree of messages: editing or regenerating makes a sibling, and `chosen`
// says which child of a message is shown.

const KEY = "herd-conversations";
const fresh = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;

export class Store {
  constructor() {
    this.all = [];
    try {
      this.all = (JSON.parse(localStorage.getItem(KEY)) ?? []).filter(isConversation);
    } catch {
      this.all = []; // damaged or not allowed: start empty
    }
  }

  // False when the browser has no room or does not allow it.
  save() {
    try {
      localStorage.setItem(KEY, JSON.stringify(this.all));
      return true;
    } catch {
      return false;
    }
  }

  create() {
    const conversation = { id: fresh(), title: "", created: Date.now(), nodes: {}, chosen: {} };
    this.all.unshift(conversation);
    return conversation;
  }

  remove(conversation) {
    this.all = this.all.filter((one) => one !== conversation);
  }

  find(words) {
    const wanted = words.toLowerCase();
    return this.all.filter((c) => !wanted || [c.title, ...Object.values(c.nodes).map((n) => n.content)].some((t) => t.toLowerCase().includes(wanted)));
  }

  // Returns how many conversations of a file were taken; throws on a file that has none.
  take(text) {
    const given = JSON.parse(text);
    const found = (Array.isArray(given) ? given : []).filter(isConversation);
    if (!found.length) throw new Error("there are no conversations in this file");
    const ids = new Set(found.map((one) => one.id));
    this.all = [...found, ...this.all.filter((one) => !ids.has(one.id))];
    return found.length;
  }
}

function isConversation(value) {
  return (
    typeof value?.id === "string" && typeof value.title === "string" && typeof value.nodes === "object" && value.nodes !== null && typeof value.chosen === "object" && value.chosen !== null &&
    Object.values(value.nodes).every((n) => typeof n?.content === "string" && ["user", "assistant"].includes(n.role))
  );
}

export function add(conversation, parent, role, content) {
  const node = { id: fresh(), parent: parent ?? "", role, content, tools: [], note: "" };
  conversation.nodes[node.id] = node;
  conversation.chosen[node.parent] = node.id;
  if (!conversation.title && role === "user") conversation.title = content.trim().slice(0, 60);
  return node;
}

export function siblings(conversation, node) {
  return Object.values(conversation.nodes).filter((one) => one.parent === node.parent);
}

// The messages that are shown, from the first to the last.
export function path(conversation) {
  const shown = [];
  for (let id = conversation.chosen[""]; id && conversation.nodes[id] && shown.length < 10000; id = conversation.chosen[id]) shown.push(conversation.nodes[id]);
  return shown;
}

export function before(conversation, node) {
  const shown = [];
  for (let id = node.parent; id; id = conversation.nodes[id]?.parent) if (conversation.nodes[id]) shown.unshift(conversation.nodes[id]);
  return shown;
}
