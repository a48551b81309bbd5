// defines: ops::fail, which throws the sentence that a person reads.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <stdexcept>

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

}  // namespace ops
