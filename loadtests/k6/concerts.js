// GET /concerts: admitted people list the concerts.

import { sleep } from 'k6';

import { letIn, myself, sendHome } from './lib/people.js';
import { THINK_SECONDS, options as optionsOf } from './lib/profile.js';
import { concerts, recognise } from './lib/shop.js';

export const options = optionsOf('concerts');

export function setup() {
  return letIn('concerts');
}

export default function ({ fans, pages }) {
  recognise(pages);
  const me = myself(fans);
  if (me) concerts(me.token);
  sleep(THINK_SECONDS);
}

export function teardown({ fans }) {
  sendHome(fans);
}
