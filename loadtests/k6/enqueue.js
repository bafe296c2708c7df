// POST /queues/enqueue: new people enter the queue.

import { sleep } from 'k6';

import { anyUser } from './lib/env.js';
import { requireSeeded } from './lib/people.js';
import { THINK_SECONDS, options as optionsOf } from './lib/profile.js';
import { enqueue } from './lib/shop.js';

export const options = optionsOf('enqueue');

export function setup() {
  requireSeeded();
}

export default function () {
  enqueue(anyUser());
  sleep(THINK_SECONDS);
}
