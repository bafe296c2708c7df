// POST /concerts/reservation: people hold random seats, each person eight at most. A seat that
// somebody else has (409) is a correct reply.

import { sleep } from 'k6';

import { anySeat } from './lib/env.js';
import { buyer, letIn, sendHome } from './lib/people.js';
import { THINK_SECONDS, options as optionsOf } from './lib/profile.js';
import { reserve } from './lib/shop.js';

export const options = optionsOf('reserve');

export function setup() {
  return letIn('reserve');
}

export default function ({ fans }) {
  const me = buyer(fans);
  if (me) reserve(me, anySeat());
  sleep(THINK_SECONDS);
}

export function teardown({ fans }) {
  sendHome(fans);
}
