// defines: ops::fail, which throws the sentence that a person reads; ops::DeviceError, a failure that programs act on as well.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace ops {

// Throws std::runtime_error; what() becomes the message of a JavaScript Error, after the op's name.
[[noreturn]] [[gnu::format(printf, 1, 2)]] inline void fail(const char* format, ...) {
  char sentence[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(sentence, sizeof sentence, format, list);
  va_end(list);
  throw std::runtime_error(sentence);
}

// The `code` of the JavaScript Error: work that may be done again with less at a time, or on another device.
inline constexpr const char* kOutOfMemory = "ERR_DEVICE_MEMORY";
inline constexpr const char* kDeviceLost = "ERR_DEVICE_LOST";

struct DeviceError : std::runtime_error {
  DeviceError(const char* code, const std::string& sentence) : std::runtime_error(sentence), code(code) {}
  const char* const code;
};

// As fail(), with one of the codes above.
[[noreturn]] [[gnu::format(printf, 2, 3)]] inline void fail_with(const char* code, const char* format, ...) {
  char sentence[512];
  va_list list;
  va_start(list, format);
  std::vsnprintf(sentence, sizeof sentence, format, list);
  va_end(list);
  throw DeviceError(code, sentence);
}

// The code of a failure; null when it has none.
inline const char* code_of(const std::exception& error) {
  const auto* known = dynamic_cast<const DeviceError*>(&error);
  return known ? known->code : nullptr;
}

}  // namespace ops
