const letters = 'ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789';
const prime = 16777619;

/**
 * The text that stands for user data at a place. It follows from the task queue's name and the place alone, so that
 * workflows can make it anew at each replay, and whoever searches for it needs not be told.
 */
export function secret(queue: string, place: string): string {
  let hash = 2166136261;
  for (const c of `${queue}/${place}`) {
    hash = Math.imul(hash ^ c.charCodeAt(0), prime);
  }
  let text = '';
  for (let i = 0; i < 32; i++) {
    hash = Math.imul(hash ^ i, prime);
    text += letters[(hash >>> 16) % letters.length];
  }
  return text;
}
