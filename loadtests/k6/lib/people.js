// People who are prepared before the measurement: admitted, or with a seat held.
//
// setup() prepares and returns them if they fit into PREPARED_MEGABYTES. Otherwise prepare.js
// prepares them before the script starts, and they are read from PREPARED_FILE, of which k6 keeps
// one copy for all virtual users. A virtual user that finds no person left prepares one, in the
// phase `prepare`, before the measured request: the metric prepared_late counts them.

import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import { Counter } from 'k6/metrics';

import { anySeat, newUser, text } from './env.js';
import { SEATS_EACH, peopleOf } from './profile.js';
import {
  PREPARE,
  concerts,
  enqueue,
  enqueueMany,
  leaveMany,
  order,
  pagesSeen,
  reserve,
  reserveMany,
  whatWasWrong,
} from './shop.js';

const BATCH = 32;
// Random seats that each person tries to hold.
const TRIES = 20;
const LOOKS_EACH = 15;
// Those who cannot leave in time leave when their admission ends.
const LEAVING_MS = 60_000;
// A hold with less time left may expire before the payment.
const HOLD_LEFT_MS = 5_000;

const preparedLate = new Counter('prepared_late');

const FILE = text('PREPARED_FILE', '');
const prepared = FILE && new SharedArray('prepared', () => JSON.parse(open(FILE)));

/** How many people setup() prepares: all; one as a trial; or none, if there is a file. */
function countFor(script) {
  const { people, in_setup: inSetup } = peopleOf(script);
  return prepared ? 0 : inSetup ? people : 1;
}

function enter(count) {
  const fans = [];
  while (fans.length < count) {
    const users = Array.from({ length: Math.min(BATCH, count - fans.length) }, newUser);
    const entered = enqueueMany(users, PREPARE);
    if (entered.length < users.length) {
      exec.test.abort(
        `Somebody got no place in the queue${whatWasWrong()}: is it full or paused?`,
      );
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

/** Throws an error, which stops the test, unless something is for sale. */
export function requireSeeded() {
  const [fan] = enter(1);
  if (fan.order === 0) requireConcerts(fan);
  leave([fan]);
}

function requireConcerts(fan) {
  if (!concerts(fan.token, PREPARE)) {
    exec.test.abort('There are no concerts: seed the database.');
  }
}

/** {fans: admitted people, as many as the script needs; pages: fingerprints of the pages that
 * they will read}. `look(token, id, tags)` reads the page of each of `ids`. */
export function letIn(script, look = null, ids = []) {
  const fans = enter(countFor(script));
  // Below the gateway's rate limit.
  const lookers = enter(1 + Math.floor(ids.length / LOOKS_EACH));
  requireAdmitted([...fans, ...lookers]);
  requireConcerts(lookers[0]);
  ids.forEach((id, index) => look(lookers[Math.floor(index / LOOKS_EACH)].token, id, PREPARE));
  leave(lookers);
  return { fans, pages: pagesSeen() };
}

/** Waiting people, one for each user of the script. */
export function lineUp(script) {
  const fans = enter(countFor(script));
  if (!(prepared || fans).some((fan) => fan.order > 0)) {
    exec.test.abort(
      'Nobody has to stand in line: lower the capacity of the waiting room with' +
        ' python -m queue_service.admin capacity.',
    );
  }
  requireCalls((prepared || fans)[0]);
  return fans;
}

/** Stops the test if the gateway answers polls that come early from its memory, without the call
 * that is to be measured. */
function requireCalls({ token }) {
  if ([1, 2].some(() => order(token, Infinity, PREPARE)?.fromMemory)) {
    exec.test.abort(
      'The gateway answers early polls from its memory: start it with GATEWAY_ENFORCE_PACE=false.',
    );
  }
}

/** People who hold a seat, one for each iteration of the script: {userId, token, reservationId,
 * heldUntil}. */
export function withSeats(script) {
  return hold(enter(countFor(script)));
}

/** A person for PREPARED_FILE. */
export function prepareOne(holds) {
  const fans = enter(1);
  return (holds ? hold(fans) : fans)[0];
}

/** Holds a random seat for each, and returns them. */
function hold(fans) {
  requireAdmitted(fans);
  for (let at = 0; at < fans.length; at += BATCH) {
    let without = fans.slice(at, at + BATCH);
    for (let tries = 0; without.length > 0; tries += 1) {
      if (tries === TRIES) {
        exec.test.abort(`Seats cannot be held${whatWasWrong()}: are there any left?`);
      }
      const results = reserveMany(without, without.map(anySeat), PREPARE);
      results.forEach((result, index) => {
        Object.assign(without[index], result && heldBy(result));
      });
      without = without.filter((fan) => !fan.reservationId);
    }
  }
  return fans;
}

function leave(fans) {
  const deadline = Date.now() + LEAVING_MS;
  for (let at = 0; at < fans.length && Date.now() < deadline; at += BATCH) {
    leaveMany(fans.slice(at, at + BATCH));
  }
}

/** Lets the prepared people leave, so that the room is as it was. */
export function sendHome(fans) {
  leave(prepared || fans);
}

/** The person prepared for this user or iteration, if there is one. */
function ready(fans, index) {
  return (prepared || fans)[index];
}

function enterLate() {
  preparedLate.add(1);
  return enqueue(newUser(), PREPARE);
}

let own = null;

/** The person that this virtual user plays in every iteration. */
export function myself(fans) {
  if (own === null) own = ready(fans, exec.vu.idInTest - 1) ?? enterLate();
  return own;
}

/** The person who holds a seat in this iteration: one for as many iterations as they may hold
 * seats. */
export function buyer(fans) {
  return ready(fans, Math.floor(exec.scenario.iterationInTest / SEATS_EACH)) ?? enterLate();
}

function heldBy({ reservationId, heldUntil }) {
  return { reservationId, heldUntil };
}

/** The person who pays in this iteration, or null if no seat could be held. */
export function payer(fans) {
  const me = ready(fans, exec.scenario.iterationInTest);
  if (me && Date.parse(me.heldUntil) > Date.now() + HOLD_LEFT_MS) return me;
  const fan = enterLate();
  if (fan === null) return null;
  for (let tries = 0; tries < TRIES; tries += 1) {
    const result = reserve(fan, anySeat(), PREPARE);
    if (result && !result.taken) return { ...fan, ...heldBy(result) };
  }
  return null;
}
