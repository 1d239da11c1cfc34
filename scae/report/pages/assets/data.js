// Data of the pages. A page opened from disk may not fetch files, but it may run scripts, so a file of data is a
// script of one call: scae_data("key", value). A large value is packed: {"packed": base64 of zlib of its JSON}.
"use strict";

const scae_values = new Map(); // key -> value, as given
const scae_loads = new Map(); // src -> promise of the value that the script there has given

/** Called by the files of data. */
function scae_data(key, value) {
  scae_values.set(key, value);
  if (document.currentScript) document.currentScript.scae_key = key;
}

/** The value of a file of data, loaded once: a promise. */
function load(src) {
  if (!scae_loads.has(src)) {
    scae_loads.set(src, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = src;
      script.async = true;
      script.onload = () => {
        if (script.scae_key === undefined) reject(new Error(`${src} holds no data`));
        else resolve(given(script.scae_key));
        script.remove();
      };
      script.onerror = () => {
        scae_loads.delete(src);
        script.remove();
        reject(new Error(`${src} is missing: rebuild the pages with python -m scae.report`));
      };
      document.head.append(script);
    }));
  }
  return scae_loads.get(src);
}

/** What a file of data that the page names itself (<script src>) has given: a promise, unpacked where packed. */
async function given(key) {
  const value = scae_values.get(key);
  scae_values.delete(key);
  if (value === null || typeof value !== "object" || typeof value.packed !== "string") return value;
  const bytes = Uint8Array.from(atob(value.packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
