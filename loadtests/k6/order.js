// GET /queues/order: waiting people poll their position.

import { sleep } from 'k6';

import { lineUp, myself, requireSeeded, sendHome } from './lib/people.js';
import { THINK_SECONDS, options as optionsOf } from './lib/profile.js';
import { order } from './lib/shop.js';

export const options = optionsOf('order');

export function setup() {
  requireSeeded();
  return lineUp('order');
}

let seen;

export default function (fans) {
  const me = myself(fans);
  const place = me && order(me.token, seen);
  if (place) seen = place.order;
  sleep(THINK_SECONDS);
}

export function teardown(fans) {
  sendHome(fans);
}
