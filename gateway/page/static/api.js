/** Everything that is asked of the gateway goes through `call`. */

const KEY = "tandem-key";

/** An answer that is an error: its message is the gateway's own. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** The API key goes with every call of this tab, and is forgotten with it. */
export function setKey(key) {
  sessionStorage.setItem(KEY, key);
  window.dispatchEvent(new Event("key-given"));
}

/** The response, if it is a good one. Throws `ApiError`, or what `fetch` throws. A gateway that
 * wants another key is told of by the event `key-wanted`. */
export async function call(path, { headers = {}, ...options } = {}) {
  const key = sessionStorage.getItem(KEY);
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, {
    ...options, headers: { ...headers, ...authorization }, cache: "no-store",
  });
  if (response.status === 401) window.dispatchEvent(new Event("key-wanted"));
  if (!response.ok) throw new ApiError(await errorMessage(response), response.status);
  return response;
}

async function errorMessage(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `HTTP ${response.status}`;
  }
}

/** The data of each server-sent event of a response. */
export async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) yield event.slice("data: ".length);
    }
  }
}
