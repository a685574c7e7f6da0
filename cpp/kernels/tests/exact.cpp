// The equations of "Context-Aware Attention Network for Image-Text Retrieval" (CVPR 2020,
// doi:10.1109/CVPR42600.2020.00359) on states, written as plainly as possible (docs/model.md).
#include <algorithm>
#include <cmath>

#include "helpers.hpp"

namespace caan_test {
namespace {

struct Matrix {
  Matrix(std::size_t number_of_rows, std::size_t number_of_columns)
      : rows(number_of_rows), columns(number_of_columns), data(rows * columns) {}
  double& operator()(std::size_t i, std::size_t j) { return data[i * columns + j]; }
  double operator()(std::size_t i, std::size_t j) const { return data[i * columns + j]; }
  std::size_t rows, columns;
  std::vector<double> data;
};

/// Columns first to first + columns - 1 of a state.
Matrix part(const State& state, std::size_t width, std::size_t first, std::size_t columns) {
  Matrix result(state.length, columns);
  for (std::size_t i = 0; i < state.length; ++i) {
    for (std::size_t j = 0; j < columns; ++j) {
      result(i, j) = static_cast<const float*>(state.rows)[i * width + first + j];
    }
  }
  return result;
}

Matrix transposed(const Matrix& a) {
  Matrix result(a.columns, a.rows);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t j = 0; j < a.columns; ++j) result(j, i) = a(i, j);
  }
  return result;
}

Matrix operator*(const Matrix& a, const Matrix& b) {
  Matrix result(a.rows, b.columns);
  for (std::size_t i = 0; i < a.rows; ++i) {
    for (std::size_t k = 0; k < a.columns; ++k) {
      for (std::size_t j = 0; j < b.columns; ++j) result(i, j) += a(i, k) * b(k, j);
    }
  }
  return result;
}

Matrix operator+(Matrix a, const Matrix& b) {
  for (std::size_t i = 0; i < a.data.size(); ++i) a.data[i] += b.data[i];
  return a;
}

Matrix tanh(Matrix a) {
  for (double& x : a.data) x = std::tanh(x);
  return a;
}

Matrix softmax_of_rows(Matrix a, double scale) {
  for (std::size_t i = 0; i < a.rows; ++i) {
    double top = scale * a(i, 0), sum = 0;
    for (std::size_t j = 0; j < a.columns; ++j) top = std::max(top, scale * a(i, j));
    for (std::size_t j = 0; j < a.columns; ++j) sum += a(i, j) = std::exp(scale * a(i, j) - top);
    for (std::size_t j = 0; j < a.columns; ++j) a(i, j) /= sum;
  }
  return a;
}

Matrix rows_of_length_1(Matrix a) {
  for (std::size_t i = 0; i < a.rows; ++i) {
    double squares = 0;
    for (std::size_t j = 0; j < a.columns; ++j) squares += a(i, j) * a(i, j);
    for (std::size_t j = 0; j < a.columns; ++j) a(i, j) /= std::max(std::sqrt(squares), 1e-6);
  }
  return a;
}

/// softmax(Z w), as a row.
Matrix pooling(const Matrix& z, const std::vector<float>& w) {
  Matrix column(w.size(), 1);
  std::copy(w.begin(), w.end(), column.data.begin());
  return softmax_of_rows(transposed(z * column), 1);
}

struct Pair {
  Matrix av, au;  // as rows
  double score;
};

Pair exact_pair(const Drawn& model, const State& image, const State& caption) {
  const std::size_t D = model.embed_dim, d = model.attention_dim;
  const auto of_image = [&](std::size_t first, std::size_t columns) {
    return part(image, model.image_width(), first, columns);
  };
  const auto of_caption = [&](std::size_t first, std::size_t columns) {
    return part(caption, model.caption_width(), first, columns);
  };
  const Matrix V = of_image(0, D), VK = of_image(D, D);
  const Matrix VQ1 = of_image(2 * D, d), VQ2 = of_image(2 * D + d, d), VQ6 = of_image(2 * D + 2 * d, d);
  const Matrix U = of_caption(0, D), UQ3 = of_caption(D, d), UQ4 = of_caption(D + d, d), UQ5 = of_caption(D + 2 * d, d);

  const Matrix H = tanh(VK * transposed(U));                                  // (regions, words)
  const Matrix Hu = softmax_of_rows(H, model.attention_scale);                // (regions, words)
  const Matrix Hv_t = softmax_of_rows(transposed(H), model.attention_scale);  // (words, regions)
  const Matrix A = rows_of_length_1(Hu), B_t = rows_of_length_1(Hv_t);
  const Matrix Sv = A * transposed(A), Su = B_t * transposed(B_t);
  const Matrix Zv = tanh(VQ1 + Sv * VQ2 + Hu * UQ3), Zu = tanh(UQ4 + Su * UQ5 + Hv_t * VQ6);
  const Matrix av = pooling(Zv, model.w_v), au = pooling(Zu, model.w_u);
  return {av, au, ((av * V) * transposed(au * U))(0, 0)};
}

}  // namespace

std::vector<double> exact_scores(const Drawn& drawn) {
  std::vector<double> result;
  for (const State& image : drawn.image_states()) {
    for (const State& caption : drawn.caption_states()) result.push_back(exact_pair(drawn, image, caption).score);
  }
  return result;
}

Attention exact_attention(const Drawn& drawn) {
  const auto images = drawn.image_states(), captions = drawn.caption_states();
  const auto shorter = [](const State& a, const State& b) { return a.length < b.length; };
  const std::size_t regions = std::max_element(images.begin(), images.end(), shorter)->length;
  const std::size_t words = std::max_element(captions.begin(), captions.end(), shorter)->length;
  Attention result{std::vector<float>(drawn.pairs() * regions), std::vector<float>(drawn.pairs() * words)};
  for (std::size_t i = 0; i < drawn.pairs(); ++i) {
    const Pair pair = exact_pair(drawn, images[i / captions.size()], captions[i % captions.size()]);
    const auto at = [i](std::vector<float>& all, std::size_t length) {
      return all.begin() + static_cast<std::ptrdiff_t>(i * length);
    };
    std::copy(pair.av.data.begin(), pair.av.data.end(), at(result.av, regions));
    std::copy(pair.au.data.begin(), pair.au.data.end(), at(result.au, words));
  }
  return result;
}

}  // namespace caan_test
