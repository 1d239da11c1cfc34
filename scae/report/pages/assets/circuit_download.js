// Files that the page makes itself.
"use strict";

function download(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function downloadJson(name, value) {
  download(name, new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
}

function svgText(svg) {
  return new XMLSerializer().serializeToString(svg);
}

function downloadSvg(name, svg) {
  download(name, new Blob([svgText(svg)], { type: "image/svg+xml" }));
}

/** At twice its size, so that it is sharp in a paper. */
async function downloadPng(name, svg) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgText(svg))}`;
  await image.decode();
  const canvas = h("canvas", { width: 2 * image.width, height: 2 * image.height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => download(name, blob), "image/png");
}
