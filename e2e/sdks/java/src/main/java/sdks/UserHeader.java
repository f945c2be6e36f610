package sdks;

import io.temporal.api.common.v1.Payload;
import io.temporal.common.context.ContextPropagator;
import io.temporal.common.converter.GlobalDataConverter;
import java.util.Map;

/** Carries the name of the user behind a call in a header, from the client to workflows and on to activities and children. */
final class UserHeader implements ContextPropagator {
  static final ThreadLocal<String> USER = ThreadLocal.withInitial(() -> "");

  @Override
  public String getName() {
    return "user";
  }

  @Override
  public Map<String, Payload> serializeContext(Object user) {
    if (user.equals("")) {
      return Map.of();
    }
    return Map.of("user", GlobalDataConverter.get().toPayload(user).orElseThrow());
  }

  @Override
  public Object deserializeContext(Map<String, Payload> header) {
    Payload payload = header.get("user");
    return payload == null ? "" : GlobalDataConverter.get().fromPayload(payload, String.class, String.class);
  }

  @Override
  public Object getCurrentContext() {
    return USER.get();
  }

  @Override
  public void setCurrentContext(Object user) {
    USER.set((String) user);
  }
}
