// POST /concerts/reservations/{reservationId}/pay: each iteration is a new person, who is
// already admitted and holds a seat, and pays for it.

import { sleep } from 'k6';

import { payer, sendHome, withSeats } from './lib/people.js';
import { THINK_SECONDS, options as optionsOf } from './lib/profile.js';
import { pay } from './lib/shop.js';

export const options = optionsOf('pay');

export function setup() {
  return withSeats('pay');
}

export default function (fans) {
  const me = payer(fans);
  if (me) pay(me, me.reservationId);
  sleep(THINK_SECONDS);
}

export function teardown(fans) {
  sendHome(fans);
}
