package sdks;

import java.nio.charset.StandardCharsets;

/** The texts that stand for user data. */
final class Secret {
  private static final String LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
  private static final int PRIME = 16777619;

  private Secret() {}

  /**
   * The text that stands for user data at a place. It follows from the task queue's name and the place alone, so that
   * workflows can make it anew at each replay, and whoever searches for it needs not be told.
   */
  static String at(String queue, String place) {
    int hash = (int) 2166136261L;
    for (byte b : (queue + "/" + place).getBytes(StandardCharsets.US_ASCII)) {
      hash = (hash ^ b) * PRIME;
    }
    StringBuilder text = new StringBuilder();
    for (int i = 0; i < 32; i++) {
      hash = (hash ^ i) * PRIME;
      text.append(LETTERS.charAt((hash >>> 16) % LETTERS.length()));
    }
    return text.toString();
  }
}
