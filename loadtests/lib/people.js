// People who are made ready before the measurement: let in, or with a seat held.
//
// setup() makes them and hands them out. k6 copies what setup() returns to every virtual user,
// which takes memory and, while users come, processor time. So only as many are made as fit into
// PREPARED_MEGABYTES together; whoever finds nobody left makes one of its own, in the phase
// `prepare`, before the request that is measured.

import exec from 'k6/execution';

import { anySeat, newUser, number } from './env.js';
import { maxIterations, maxUsers } from './profile.js';
import {
  PREPARE,
  concerts,
  enqueue,
  enqueueMany,
  leaveMany,
  pagesSeen,
  reserve,
  reserveMany,
} from './shop.js';

const BATCH = 32;
const BYTES_EACH = 400;
const TRIES = 5;
const LOOKS_EACH = 15;
const PREPARED_BYTES = number('PREPARED_MEGABYTES', 250) * 1e6;

function atMost(script) {
  return Math.floor(PREPARED_BYTES / BYTES_EACH / maxUsers(script));
}

/** Everybody whom the script needs, or, if they are too many, one to try it with: then each
 * virtual user enters by itself, which is one request more in its life. */
function allOrOne(script) {
  return maxUsers(script) <= atMost(script) ? maxUsers(script) : 1;
}

function enter(count) {
  const fans = [];
  while (fans.length < count) {
    const users = Array.from({ length: Math.min(BATCH, count - fans.length) }, newUser);
    const entered = enqueueMany(users, PREPARE);
    if (entered.length < users.length) {
      exec.test.abort('Somebody got no place in the queue: is it full or paused?');
    }
    fans.push(...entered);
  }
  return fans;
}

function requireAdmitted(fans) {
  if (fans.some((fan) => fan.order > 0)) {
    exec.test.abort(
      'The waiting room is full, so nobody can be let in before the measurement:' +
        ' raise its capacity with python -m queue_service.admin capacity.',
    );
  }
}

/** Raises an error that stops the test unless there is something for sale. */
export function requireSeeded() {
  const [fan] = enter(1);
  if (fan.order === 0) requireConcerts(fan);
  leaveMany([fan]);
}

function requireConcerts(fan) {
  if (!concerts(fan.token, PREPARE)) {
    exec.test.abort('There are no concerts: seed the database.');
  }
}

/** {fans: people who are in, one for each user of the script; pages: fingerprints of the pages
 * they will look at}. `look(token, id, tags)` looks at the page of each of `ids`. */
export function letIn(script, look = null, ids = []) {
  const fans = enter(allOrOne(script));
  requireAdmitted(fans);
  requireConcerts(fans[0]);
  // Nobody may ask too often.
  const lookers = enter(Math.ceil(ids.length / LOOKS_EACH));
  requireAdmitted(lookers);
  ids.forEach((id, index) => look(lookers[Math.floor(index / LOOKS_EACH)].token, id, PREPARE));
  sendHome(lookers);
  return { fans, pages: pagesSeen() };
}

/** People who stand in line (or are in, if there is room), one for each user of the script. */
export function lineUp(script) {
  return enter(allOrOne(script));
}

/** People who hold a seat, one for each iteration of the script: {userId, token, reservationId}. */
export function withSeats(script) {
  const fans = enter(Math.min(maxIterations(script), atMost(script)));
  requireAdmitted(fans);
  for (let at = 0; at < fans.length; at += BATCH) {
    let without = fans.slice(at, at + BATCH);
    for (let tries = 0; without.length > 0; tries += 1) {
      if (tries === TRIES) exec.test.abort('Seats cannot be held: are there any left?');
      const results = reserveMany(without, without.map(anySeat), PREPARE);
      results.forEach((result, index) => {
        without[index].reservationId = result && result.reservationId;
      });
      without = without.filter((fan) => !fan.reservationId);
    }
  }
  return fans;
}

/** Those whom setup() made leave, so that the room is as it was. */
export function sendHome(fans) {
  for (let at = 0; at < fans.length; at += BATCH) leaveMany(fans.slice(at, at + BATCH));
}

let own = null;

/** The person that this virtual user is, in every iteration. */
export function myself(fans) {
  if (own === null) own = fans[exec.vu.idInTest - 1] ?? enqueue(newUser(), PREPARE);
  return own;
}

/** The person who pays in this iteration, or null if no seat could be held. */
export function payer(fans) {
  const ready = fans[exec.scenario.iterationInTest];
  if (ready) return ready;
  const fan = enqueue(newUser(), PREPARE);
  if (fan === null) return null;
  for (let tries = 0; tries < TRIES; tries += 1) {
    const result = reserve(fan, anySeat(), PREPARE);
    if (result && !result.taken) return { ...fan, reservationId: result.reservationId };
  }
  return null;
}
