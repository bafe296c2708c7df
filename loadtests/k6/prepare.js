// Prepares the people of a script that do not fit into its setup(): each iteration logs one person
// as JSON. loadtests/prepare.py runs this, writes the people to PREPARED_FILE and starts the
// script.
//
//   PREPARE          how many people
//   PREPARE_HOLDS    1: each holds a seat
//   PREPARE_SECONDS  then it ends, even if there are fewer

import { number } from './lib/env.js';
import { prepareOne } from './lib/people.js';

const COUNT = number('PREPARE', 1);
const HOLDS = number('PREPARE_HOLDS', 0) === 1;

export const options = {
  scenarios: {
    prepare: {
      executor: 'shared-iterations',
      // More of them are no faster on two cores.
      vus: Math.min(24, COUNT),
      iterations: COUNT,
      maxDuration: `${number('PREPARE_SECONDS', 60)}s`,
      gracefulStop: '30s',
    },
  },
};

export default function () {
  console.log(JSON.stringify(prepareOne(HOLDS)));
}
