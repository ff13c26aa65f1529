/** Writes matrices, with the names of rows and columns, as CSV and as NumPy's NPZ. */

import { zip } from "./zip.js";

/**
 * @typedef {object} Numbers
 * @property {string} name
 * @property {string[]} rows
 * @property {string[]} columns
 * @property {Float32Array} data (rows, columns)
 */

/**
 * Write matrices one below the other, each with a line of its columns' names.
 * @param {Numbers[]} all
 */
export function toCsv(all) {
  const tables = all.map(({ name, rows, columns, data }) => {
    const lines = rows.map((row, index) => {
      const numbers = data.subarray(index * columns.length, (index + 1) * columns.length);
      return [quote(row), ...numbers].join(",");
    });
    return [[name, ...columns].map(quote).join(","), ...lines, ""].join("\r\n");
  });
  return new Blob([tables.join("\r\n")], { type: "text/csv" });
}

/**
 * Write matrices as arrays by name; NAME_rows and NAME_columns are the names of rows and columns.
 * @param {Numbers[]} all
 */
export function toNpz(all) {
  /** @type {[string, Uint8Array<ArrayBuffer>][]} */
  const files = all.flatMap(({ name, rows, columns, data }) => [
    [`${name}.npy`, npy("<f4", [rows.length, columns.length], new Uint8Array(data.slice().buffer))],
    [`${name}_rows.npy`, texts(rows)],
    [`${name}_columns.npy`, texts(columns)],
  ]);
  return new Blob([zip(files)], { type: "application/zip" });
}

/** @param {string} text */
function quote(text) {
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** @param {string[]} all */
function texts(all) {
  const points = all.map((text) => [...text].map((character) => character.codePointAt(0) ?? 0));
  const width = Math.max(1, ...points.map(({ length }) => length));
  const data = new Uint32Array(width * all.length);
  points.forEach((each, index) => data.set(each, index * width));
  return npy(`<U${width}`, [all.length], new Uint8Array(data.buffer));
}

const ALIGNMENT = 64;

/**
 * Write an array in NumPy's format, version 1.0.
 * @param {string} type
 * @param {number[]} shape
 * @param {Uint8Array} data
 */
function npy(type, shape, data) {
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const text = `{'descr': '${type}', 'fortran_order': False, 'shape': (${sizes}), }`;
  const start = 10;
  const length = Math.ceil((start + text.length + 1) / ALIGNMENT) * ALIGNMENT;
  const bytes = new Uint8Array(length + data.length);
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0]);
  new DataView(bytes.buffer).setUint16(8, length - start, true);
  bytes.set(new TextEncoder().encode(`${text.padEnd(length - start - 1)}\n`), start);
  bytes.set(data, length);
  return bytes;
}
