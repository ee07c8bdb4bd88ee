// What a training step does on a CPU between its matrix products, each in one pass over memory: see on_cpu.py.
//
// Tensors are rows in fp32 or bf16, computed in fp32. A row in fp32 is read and written where it lies; one in bf16 goes
// through a buffer that stays in the first-level cache.

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

using std::int64_t;

enum Dtype : int64_t { FP32 = 0, BF16 = 1 };

template <class To, class From>
static inline To bits(From from) {
  To to;
  static_assert(sizeof(To) == sizeof(From), "");
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

static inline float widened(uint16_t x) { return bits<float>(uint32_t(x) << 16); }

// to the nearest, ties to even; NaN stays NaN
static inline uint16_t narrowed(float x) {
  uint32_t u = bits<uint32_t>(x);
  uint16_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  return x != x ? 0x7fc0 : rounded;
}

// n values from `offset` on: where they lie, or widened into `buffer`
static inline const float* read(const void* base, int64_t dtype, int64_t offset, int64_t n, float* buffer) {
  if (dtype == FP32) return static_cast<const float*>(base) + offset;
  const uint16_t* x = static_cast<const uint16_t*>(base) + offset;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) buffer[i] = widened(x[i]);
  return buffer;
}

// where n values are to be computed; `write` then rounds them
static inline float* place(void* base, int64_t dtype, int64_t offset, float* buffer) {
  return dtype == FP32 ? static_cast<float*>(base) + offset : buffer;
}

static inline void write(void* base, int64_t dtype, int64_t offset, int64_t n, const float* values) {
  if (dtype == FP32) return;
  uint16_t* out = static_cast<uint16_t*>(base) + offset;
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = narrowed(values[i]);
}

// within 2 units in the last place; 0 below -87, constant above 88, NaN of NaN
static inline float exponential(float x) {
  float within = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  float shifted = within * 1.44269504f + 12582912.0f;  // its last bits are the nearest whole number
  float whole = shifted - 12582912.0f;
  float r = within - whole * 0.693359375f + whole * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t power = (bits<uint32_t>(shifted) - bits<uint32_t>(12582912.0f) + 127u) << 23;
  return x < -87.0f ? 0.0f : p * bits<float>(power);
}

// GELU(x) = x / (1 + exp(-inner(x))) by the approximation with tanh, since (1 + tanh(u)) / 2 = 1 / (1 + exp(-2 u))
static inline float inner(float x) { return x * (1.59576912f + 0.0713548163f * x * x); }
static inline float inner_slope(float x) { return 1.59576912f + 0.2140644488f * x * x; }

static const int64_t TILE = 32;
typedef uint16_t Eight __attribute__((vector_size(16)));

// of a size that the compiler has, but at the edge
static inline void copy(uint16_t* to, const uint16_t* from, int64_t n) {
  if (n == TILE)
    std::memcpy(to, from, TILE * sizeof(uint16_t));
  else
    std::memcpy(to, from, n * sizeof(uint16_t));
}

// to[j + b][i + a] = from[i + a][j + b] for a, b below 8: pairs, fours and halves of rows change places
static inline void transpose_block(const uint16_t (*from)[TILE], uint16_t (*to)[TILE], int64_t i, int64_t j) {
  Eight row[8], next[8];
  for (int a = 0; a < 8; a++) std::memcpy(&row[a], &from[i + a][j], sizeof(Eight));
  for (int round = 0; round < 3; round++) {
    for (int a = 0; a < 4; a++) {
      next[2 * a] = __builtin_shufflevector(row[a], row[a + 4], 0, 8, 1, 9, 2, 10, 3, 11);
      next[2 * a + 1] = __builtin_shufflevector(row[a], row[a + 4], 4, 12, 5, 13, 6, 14, 7, 15);
    }
    for (int a = 0; a < 8; a++) row[a] = next[a];
  }
  for (int b = 0; b < 8; b++) std::memcpy(&to[j + b][i], &row[b], sizeof(Eight));
}

extern "C" {

// stream = x + update, where there is one, rounded; y = stream * inverse * weight
void add_rms_norm(int64_t rows, int64_t width, float eps, const void* x, int64_t x_dtype, const void* update,
                  int64_t update_dtype, const float* weight, void* stream, int64_t stream_dtype, void* y,
                  int64_t y_dtype, float* inverse) {
#pragma omp parallel
  {
    std::vector<float> buffer(3 * width);
    float *first = buffer.data(), *second = first + width, *third = second + width;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
      const int64_t at = row * width;
      const float* values = read(x, x_dtype, at, width, first);
      if (update) {
        const float* added = read(update, update_dtype, at, width, second);
        float* sum = place(stream, stream_dtype, at, third);
#pragma omp simd
        for (int64_t i = 0; i < width; i++) sum[i] = values[i] + added[i];
        write(stream, stream_dtype, at, width, sum);
        values = read(stream, stream_dtype, at, width, first);
      }
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < width; i++) squares += values[i] * values[i];
      const float scale = 1.0f / std::sqrt(squares / width + eps);
      inverse[row] = scale;
      float* out = place(y, y_dtype, at, second);
#pragma omp simd
      for (int64_t i = 0; i < width; i++) out[i] = values[i] * scale * weight[i];
      write(y, y_dtype, at, width, out);
    }
  }
}

// dx = passed + r (g w) - r^3 / width <g x, w> x, and once more in another dtype; dw = sum of r (g x), by `parts` of
// the rows, so that the sum does not depend on the number of threads
void rms_norm_backward(int64_t rows, int64_t width, const void* g, int64_t g_dtype, const void* passed,
                       int64_t passed_dtype, const void* x, int64_t x_dtype, const float* weight, const float* inverse,
                       void* dx, int64_t dx_dtype, void* again, int64_t again_dtype, float* dw, int64_t parts) {
#pragma omp parallel
  {
    std::vector<float> buffer(4 * width);
    float *first = buffer.data(), *second = first + width, *third = second + width, *fourth = third + width;
#pragma omp for schedule(static)
    for (int64_t part = 0; part < parts; part++) {
      float* sums = dw + part * width;
      std::memset(sums, 0, width * sizeof(float));
      for (int64_t row = rows * part / parts; row < rows * (part + 1) / parts; row++) {
        const int64_t at = row * width;
        const float* gradient = read(g, g_dtype, at, width, first);
        const float* values = read(x, x_dtype, at, width, second);
        const float r = inverse[row];
        float product = 0;
#pragma omp simd reduction(+ : product)
        for (int64_t i = 0; i < width; i++) {
          const float of_both = gradient[i] * values[i];
          sums[i] += of_both * r;
          product += of_both * weight[i];
        }
        const float factor = -product * r * r * r / width;
        float* out = place(dx, dx_dtype, at, third);
        if (passed) {
          const float* more = read(passed, passed_dtype, at, width, fourth);
#pragma omp simd
          for (int64_t i = 0; i < width; i++) out[i] = gradient[i] * weight[i] * r + values[i] * factor + more[i];
        } else {
#pragma omp simd
          for (int64_t i = 0; i < width; i++) out[i] = gradient[i] * weight[i] * r + values[i] * factor;
        }
        write(dx, dx_dtype, at, width, out);
        if (again && again_dtype == FP32)
          std::memcpy(static_cast<float*>(again) + at, out, width * sizeof(float));
        else if (again)
          write(again, again_dtype, at, width, out);
      }
    }
  }
}

static const int64_t COLUMNS = 512;

// silu(gate) * up of rows (2 width), or gelu(gate) * up
void swiglu(int64_t rows, int64_t width, const void* gate_up, int64_t dtype, void* product, int64_t gelu) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    float first[COLUMNS], second[COLUMNS], third[COLUMNS];
    for (int64_t start = 0; start < width; start += COLUMNS) {
      const int64_t n = width - start < COLUMNS ? width - start : COLUMNS, at = 2 * row * width + start;
      const float* gate = read(gate_up, dtype, at, n, first);
      const float* up = read(gate_up, dtype, at + width, n, second);
      float* out = place(product, dtype, row * width + start, third);
      if (gelu) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) out[i] = gate[i] / (1.0f + exponential(-inner(gate[i]))) * up[i];
      } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
      }
      write(product, dtype, row * width + start, n, out);
    }
  }
}

void swiglu_backward(int64_t rows, int64_t width, const void* gate_up, int64_t dtype, const void* upstream,
                     void* gradient, int64_t gelu) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; row++) {
    float first[COLUMNS], second[COLUMNS], third[COLUMNS], fourth[COLUMNS], fifth[COLUMNS];
    for (int64_t start = 0; start < width; start += COLUMNS) {
      const int64_t n = width - start < COLUMNS ? width - start : COLUMNS, at = 2 * row * width + start;
      const float* gate = read(gate_up, dtype, at, n, first);
      const float* up = read(gate_up, dtype, at + width, n, second);
      const float* g = read(upstream, dtype, row * width + start, n, third);
      float *of_gate = place(gradient, dtype, at, fourth), *of_up = place(gradient, dtype, at + width, fifth);
      if (gelu) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
          const float sigmoid = 1.0f / (1.0f + exponential(-inner(gate[i])));
          of_up[i] = g[i] * gate[i] * sigmoid;
          of_gate[i] = g[i] * up[i] * sigmoid * (1.0f + gate[i] * inner_slope(gate[i]) * (1.0f - sigmoid));
        }
      } else {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
          const float sigmoid = 1.0f / (1.0f + exponential(-gate[i]));
          of_up[i] = g[i] * gate[i] * sigmoid;
          of_gate[i] = g[i] * up[i] * sigmoid * (1.0f + gate[i] * (1.0f - sigmoid));
        }
      }
      write(gradient, dtype, at, n, of_gate);
      write(gradient, dtype, at + width, n, of_up);
    }
  }
}

// heads (sequences, length, heads, width), each tensor with its own three strides: of the first 2 half values halves or
// neighbours are rotated by `sign` times the angles, the others copied, all where it is 0. Tables are `apart`, or shared (0)
void rope(int64_t sequences, int64_t length, int64_t heads, int64_t width, int64_t half, const void* x, int64_t dtype,
          const int64_t* x_strides, void* y, const int64_t* y_strides, const float* cosines, const float* sines,
          int64_t apart, float sign, int64_t interleaved) {
#pragma omp parallel
  {
    std::vector<float> buffer(2 * width);
    float* rotated = buffer.data() + width;
    const int64_t turned = sign == 0 ? 0 : 2 * half;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < sequences * length; row++) {
      const int64_t sequence = row / length, position = row % length;
      const float* cosine = cosines + sequence * apart + position * half;
      const float* sine = sines + sequence * apart + position * half;
      for (int64_t head = 0; head < heads; head++) {
        const int64_t from = sequence * x_strides[0] + position * x_strides[1] + head * x_strides[2];
        const int64_t to = sequence * y_strides[0] + position * y_strides[1] + head * y_strides[2];
        const float* in = read(x, dtype, from, width, buffer.data());
        float* out = place(y, dtype, to, rotated);
        if (turned && interleaved) {
#pragma omp simd
          for (int64_t i = 0; i < half; i++) {
            const float s = sign * sine[i], a = in[2 * i], b = in[2 * i + 1];
            out[2 * i] = a * cosine[i] - b * s, out[2 * i + 1] = b * cosine[i] + a * s;
          }
        } else if (turned) {
#pragma omp simd
          for (int64_t i = 0; i < half; i++) {
            const float s = sign * sine[i], a = in[i], b = in[half + i];
            out[i] = a * cosine[i] - b * s, out[half + i] = b * cosine[i] + a * s;
          }
        }
        if (turned < width) std::memcpy(out + turned, in + turned, (width - turned) * sizeof(float));
        write(y, dtype, to, width, out);
      }
    }
  }
}

// cross-entropy of rows of logits, which begin `stride` apart and become their gradients: `results` are the losses of
// all rows, then their maxima, then their sums of exponentials
void losses_and_gradients(int64_t rows, int64_t ids, int64_t stride, void* logits, int64_t dtype, const int64_t* labels,
                          int64_t ignored, float z_loss, float* results) {
  float *losses = results, *maxima = results + rows, *sums = results + 2 * rows;
#pragma omp parallel
  {
    std::vector<float> buffer(ids);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
      const int64_t at = row * stride, label = labels[row];
      float* out = place(logits, dtype, at, buffer.data());
      if (label == ignored) {  // whatever the row holds
        std::memset(out, 0, ids * sizeof(float));
        write(logits, dtype, at, ids, out);
        losses[row] = maxima[row] = 0;
        sums[row] = 1;
        continue;
      }
      const float* x = read(logits, dtype, at, ids, out);
      float most = -INFINITY;
#pragma omp simd reduction(max : most)
      for (int64_t i = 0; i < ids; i++) most = x[i] > most ? x[i] : most;
      const bool inside = label >= 0 && label < ids;
      const float of_label = inside ? x[label] : -INFINITY, shift = most > -FLT_MAX ? most : -FLT_MAX;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < ids; i++) {
        const float e = exponential(x[i] - shift);
        out[i] = e;
        sum += e;
      }
      const float log_sum = std::log(sum), nats = most + log_sum;
      maxima[row] = most;
      sums[row] = sum;
      losses[row] = most - of_label + log_sum + z_loss * nats * nats;
      const float factor = (1.0f + 2.0f * z_loss * nats) / sum;
#pragma omp simd
      for (int64_t i = 0; i < ids; i++) out[i] *= factor;
      if (inside) out[label] -= 1.0f;
      write(logits, dtype, at, ids, out);
    }
  }
}

// softmax of scale * scores (rows, keys), in place: of `queries` positions from `first` on, again and again. A query sees
// the keys up to itself, or those of its row of `visible`, of which each `together` rows have one of (length, length)
void softmax(int64_t rows, int64_t keys, void* scores, int64_t dtype, float scale, int64_t queries, int64_t first,
             const uint8_t* visible, int64_t together, int64_t length) {
#pragma omp parallel
  {
    std::vector<float> buffer(keys);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
      const int64_t query = first + row % queries, at = row * keys;
      const int64_t n = visible || query >= keys ? keys : query + 1;
      float* out = place(scores, dtype, at, buffer.data());
      const float* x = read(scores, dtype, at, n, out);
      if (visible) {
        const uint8_t* seen = visible + (row / together * length + query) * length;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) out[i] = seen[i] ? x[i] : -INFINITY;
      }
      float most = -FLT_MAX, sum = 0;
#pragma omp simd reduction(max : most)
      for (int64_t i = 0; i < n; i++) most = x[i] > most ? x[i] : most;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < n; i++) {
        const float e = exponential((x[i] - most) * scale);
        out[i] = e;
        sum += e;
      }
      const float factor = 1.0f / sum;
#pragma omp simd
      for (int64_t i = 0; i < n; i++) out[i] *= factor;
      std::memset(out + n, 0, (keys - n) * sizeof(float));
      write(scores, dtype, at, keys, out);
    }
  }
}

// the gradient of the scores, scale * p (dp - sum of p dp), takes the place of dp
void softmax_backward(int64_t rows, int64_t keys, const void* p, int64_t dtype, void* dp, float scale) {
#pragma omp parallel
  {
    std::vector<float> buffer(2 * keys);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < rows; row++) {
      const int64_t at = row * keys;
      const float* probability = read(p, dtype, at, keys, buffer.data());
      float* out = place(dp, dtype, at, buffer.data() + keys);
      const float* gradient = read(dp, dtype, at, keys, out);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < keys; i++) sum += probability[i] * gradient[i];
#pragma omp simd
      for (int64_t i = 0; i < keys; i++) out[i] = scale * probability[i] * (gradient[i] - sum);
      write(dp, dtype, at, keys, out);
    }
  }
}

// bf16 (rows, columns) to (columns, rows) in bf16 or fp32
void transposed(int64_t rows, int64_t columns, const uint16_t* x, void* y, int64_t y_dtype) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < rows; row += TILE) {
    const int64_t high = rows - row < TILE ? rows - row : TILE;
    uint16_t from[TILE][TILE] = {}, to[TILE][TILE];
    for (int64_t column = 0; column < columns; column += TILE) {
      const int64_t wide = columns - column < TILE ? columns - column : TILE;
      for (int64_t i = 0; i < high; i++) copy(from[i], x + (row + i) * columns + column, wide);
      for (int64_t i = 0; i < TILE; i += 8)
        for (int64_t j = 0; j < TILE; j += 8) transpose_block(from, to, i, j);
      for (int64_t j = 0; j < wide; j++) {
        const int64_t at = (column + j) * rows + row;
        if (y_dtype == BF16)
          copy(static_cast<uint16_t*>(y) + at, to[j], high);
        else
          read(to[j], BF16, 0, high, static_cast<float*>(y) + at);
      }
    }
  }
}
}
