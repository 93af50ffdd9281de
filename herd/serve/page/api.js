// The server: what it serves, and replies as they come.

async function fail(response) {
  let message = `the server answered ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // not JSON: the status has to do
  }
  throw Object.assign(new Error(message), { status: response.status });
}

const headers = (key) => ({ "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) });

export async function models(key) {
  const response = await fetch("v1/models", { headers: headers(key) });
  if (!response.ok) await fail(response);
  return (await response.json()).data;
}

// Calls take(chunk) for each piece of the reply. Ends early, without an error, when `signal` is aborted.
export async function chat(body, key, signal, take) {
  const options = { stream: true, stream_options: { include_usage: true } };
  try {
    const response = await fetch("v1/chat/completions", { method: "POST", headers: headers(key), body: JSON.stringify({ ...body, ...options }), signal });
    if (!response.ok) await fail(response);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let held = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      held += value;
      const events = held.split("\n\n");
      held = events.pop();
      for (const event of events) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        take(chunk);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}
