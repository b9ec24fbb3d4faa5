// A program with so many MiB of objects, to crash: objects.js MIB.
'use strict';

const crypto = require('node:crypto');

const words = `account address amount basket billing cancelled card carrier category city comment confirmed country
created currency customer customs delivered delivery discount email exchange express free gift invoice item label
limit maximum minimum name note number open order packed paid parcel partner payment pending phone pickup postcode
price priority product quantity receipt reference refund region registered returned sender service shipped size
state status stock street supplier tax telephone tracking transfer updated urgent volume voucher`.split(/\s+/);

let state = 4; // the same objects each time
const below = (limit) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * limit);
};
const word = () => words[below(words.length)];
const sentence = (count) => Array.from({ length: count }, word).join(' ');

const order = (number) => ({
  id: number,
  customer: { name: sentence(2), email: `${word()}.${number % 9973}@example.com` },
  status: word(),
  total: below(100000) / 100,
  created: new Date(1.7e12 + number * 7000),
  items: Array.from({ length: 1 + below(4) }, () => ({ sku: below(100000), quantity: 1 + below(8), price: below(1e4) })),
  tags: [word(), word(), word()],
  note: sentence(5 + below(35)),
  at: [below(180) - 90.5, below(360) - 180.5],
});

const orders = [];
const index = new Map();
const bodies = [];
const wanted = Number(process.argv[2]) * 2 ** 20;
while (process.memoryUsage.rss() < wanted) {
  const first = orders.length;
  for (let number = first; number < first + 1000; number++) {
    const made = order(number);
    orders.push(made);
    index.set(`order:${number}`, made);
  }
  // What came over the network and what went out to it: text, and what was
  // encrypted.
  bodies.push(Buffer.from(JSON.stringify(orders.slice(-500))), crypto.randomBytes(32 << 10));
}
console.log(JSON.stringify({ pid: process.pid }));
process.stdin.on('end', () => process.exit(0)).resume();
